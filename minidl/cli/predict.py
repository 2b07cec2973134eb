"""``minidl predict [RUN] IMAGE…``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from minidl.cli.options import add_backend, add_run, choose_backend, open_run, say
from minidl.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "predict", help="classify image files", description="Classify image files with a run's weights."
    )
    add_run(p, "the latest image classifier in runs/")
    p.add_argument("images", nargs="+", metavar="IMAGE")
    p.add_argument("--top", type=int, default=3, metavar="K", help="classes to show for each image (default: 3)")
    add_backend(p)
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl import ops
    from minidl.recipes import ImageRecipe
    from minidl.train import predict

    images = arguments.images
    if arguments.run_folder and Path(arguments.run_folder).is_file():  # RUN was left out
        images = [arguments.run_folder, *images]
        arguments.run_folder = None
    if Path(images[0]).is_dir():
        raise UserError(f"{images[0]} is a folder; give an image: minidl predict {images[0]} IMAGE")
    made = open_run(arguments.run_folder, ImageRecipe)
    recipe = made.recipe
    if not isinstance(recipe, ImageRecipe):
        raise UserError(f"{recipe.name} does not classify images; try: minidl generate {made.folder}")
    if arguments.top < 1:
        raise UserError(f"--top must be at least 1, got {arguments.top}")
    choose_backend(arguments.backend or made.content["backend"])
    model = made.trained_model()
    for path in images:
        scores = predict(model, recipe.read_image(path))
        p = np.asarray(ops.softmax(scores, axis=1))[0]
        if not np.isfinite(p).all():
            raise UserError(f"{path}: the model's scores are not finite; does {made.folder} hold sound weights?")
        best = np.argsort(-p)[: arguments.top]
        say(f"{path}: " + ", ".join(f"{recipe.classes[i]} {100 * p[i]:.1f} %" for i in best))
    return 0
