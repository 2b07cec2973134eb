"""Recipes: their settings, models and targets; the first command's full run."""

import numpy as np
import pytest

import minidl
from minidl import recipes
from minidl.recipes import ConfigError, ImageRecipe, Target, TextRecipe
from minidl.recipes.base import token_loss


@pytest.mark.parametrize("name", list(recipes.NAMES))
def test_every_recipe_builds_its_model(name):
    recipe = recipes.get(name)
    assert recipe.name == name and recipe.summary
    config = recipe.configure()
    assert config == recipe.defaults and config["epochs"] >= 1 and config["seed"] == 0
    minidl.manual_seed(0)
    model = recipe.model(config).eval()
    if isinstance(recipe, ImageRecipe):
        channels = {"L": 1, "RGB": 3}[recipe.mode]
        assert len(recipe.mean) == len(recipe.std) == channels
        images = minidl.tensor(np.zeros((2, channels, recipe.size, recipe.size), np.float32))
        assert model(images).shape == (2, len(recipe.classes))
    else:
        assert isinstance(recipe, TextRecipe)
        logits = model(minidl.tensor(np.zeros((2, 5), np.int64)))
        assert (logits[0] if isinstance(logits, tuple) else logits).shape == (2, 5, config["vocab_size"])


@pytest.mark.parametrize("name", list(recipes.NAMES))
def test_every_recipe_can_be_trained(name):
    """Its optimizer has every parameter that learns, once; its schedule spans the steps."""
    recipe = recipes.get(name)
    config = recipe.configure()
    model = recipe.model(config)
    training = recipe.training(config, model, 50)
    held = [id(p) for group in training["optimizer"].param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    first = training["optimizer"].param_groups[0]["lr"]
    for _ in range(49):
        training["scheduler"].step()
    assert training["scheduler_interval"] == "step"
    assert 0 <= training["optimizer"].param_groups[0]["lr"] < config["lr"] and first > 0


def test_names():
    assert recipes.get("mlp_digits").name == "mlp-digits"
    with pytest.raises(ConfigError, match="unknown recipe 'mlp'; there are: mlp-digits"):
        recipes.get("mlp")


def test_settings_are_converted_and_checked():
    recipe = recipes.get("gpt-shakespeare")
    config = recipe.configure({"lr": "1e-4", "epochs": "3", "bias": "yes", "dropout": 1, "width": 64})
    assert (config["lr"], config["epochs"], config["bias"], config["width"]) == (1e-4, 3, True, 64)
    assert config["dropout"] == 1.0 and type(config["dropout"]) is float
    assert recipe.defaults["epochs"] == 8
    for settings, message in (
        ({"layer": 3}, "gpt-shakespeare has no setting 'layer'; there are: epochs"),
        ({"epochs": 1.5}, r"epochs must be of type int \(its default is 8\), got 1.5"),
        ({"epochs": True}, "epochs must be of type int"),
        ({"lr": True}, "lr must be of type float"),
        ({"bias": 2}, "bias must be of type bool"),
        ({"epochs": 0}, r"epochs must be an integer in \[1, 1000000\], got 0"),
        ({"batch_size": -1}, r"batch_size must be an integer in \[1, 1000000\], got -1"),
        ({"width": 66}, "width must be a multiple of heads, got width=66 heads=4"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe.configure(settings)


def test_targets():
    accuracy, loss = Target("test_accuracy", 0.9, "x"), Target("test_loss", 1.5, "x")
    assert accuracy.reached(0.9) and not accuracy.reached(0.899)
    assert loss.reached(1.5) and not loss.reached(1.501)
    assert str(accuracy) == "test_accuracy >= 0.9" and str(loss) == "test_loss <= 1.5"
    result = recipes.get("gpt-shakespeare").result({"loss": 1.7})
    assert result["figure"] == "test_loss" and result["value"] == 1.7 and result["reached"]


def test_token_loss_is_the_mean_over_all_tokens():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, (3, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = -np.log(np.take_along_axis(p, targets[..., None], 2)).mean()
    assert token_loss(minidl.tensor(logits), minidl.tensor(targets)).item() == pytest.approx(want)


def test_mlp_digits_reaches_its_target():
    recipe = recipes.get("mlp-digits")
    config = recipe.configure()
    trainer, loaders = recipe.build(config, progress=False)
    trainer.fit(loaders.train, epochs=config["epochs"])
    assert recipe.result(trainer.evaluate(loaders.test))["reached"]


def hostile(name):
    """(setting, value) pairs that are out of range for the recipe, as typed on a command line."""
    for key, default in recipes.get(name).defaults.items():
        if isinstance(default, bool):
            values = ["2", "nan"]
        elif isinstance(default, int):
            values = ["-1", "99999999999999999999999", "1.5", "nan", "x", ""]
        else:
            values = ["nan", "inf", "-0.1", "x", ""]
        yield from ((key, value) for value in values)


@pytest.mark.parametrize("name", list(recipes.NAMES))
def test_every_setting_has_a_range(name):
    recipe = recipes.get(name)
    assert recipe.configure() == recipe.defaults
    for key, value in hostile(name):
        if (key, value) == ("warmup", "99999999999999999999999"):
            continue  # all steps warm up
        with pytest.raises(ConfigError, match=f"^{key} must be "):
            recipe.configure({key: value})
