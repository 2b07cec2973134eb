"""ViT and ResNet from Hugging Face's folders give its library's numbers, and GPT-2, the oldest text model here, too."""

import numpy as np
import pytest

import minidl
from minidl import models, ops, optim
from minidl.models.gpt import GPT

torch = pytest.importorskip("torch", reason="Hugging Face's models run on PyTorch")

VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "image_size": 12,
    "patch_size": 4,
}  # fmt: skip
GPT2 = {
    "vocab_size": 41, "n_positions": 20, "n_embd": 16, "n_layer": 2, "n_head": 4, "eos_token_id": None,
    "bos_token_id": None,
}  # fmt: skip


def images(side, channels=3, n=3):
    return np.random.default_rng(0).normal(size=(n, channels, side, side)).astype(np.float32)


def close(ours, theirs):
    ours, theirs = ours.detach().numpy(), theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False, "num_channels": 1, "hidden_act": "gelu_new"}])
def test_vit(saved, options):
    theirs, folder = saved(("ViTConfig", "ViTForImageClassification"), num_labels=5, **VIT, **options)
    ours = models.from_pretrained(folder)
    x = images(12, options.get("num_channels", 3))
    close(ours(x), theirs(torch.from_numpy(x)).logits)
    assert list(ours.config.id2label.values()) == [f"LABEL_{i}" for i in range(5)]
    body = models.from_pretrained(folder, "ViTModel")
    close(body(x), theirs.vit(torch.from_numpy(x))[0])


def test_vits_body(saved):
    theirs, folder = saved(("ViTConfig", "ViTModel"), **VIT)
    x = images(12)
    close(models.from_pretrained(folder)(x), theirs(torch.from_numpy(x))[0])
    tuned = models.from_pretrained(folder, "ViTForImageClassification", new=["classifier"], num_labels=7)
    assert tuned(x).shape == (3, 7)


def test_vit_expects_its_size(saved):
    ours = models.from_pretrained(saved(("ViTConfig", "ViTModel"), **VIT)[1])
    with pytest.raises(ValueError, match=r"ViT: expected images of shape \(N, 3, 12, 12\), got \(3, 3, 16, 16\)"):
        ours(images(16))


def test_one_step_of_fine_tuning_is_pytorchs(saved):
    theirs, folder = saved(("ViTConfig", "ViTForImageClassification"), num_labels=5, **VIT)
    ours = models.from_pretrained(folder).train()
    x, labels = images(12), np.array([4, 0, 2])
    step, tstep = optim.AdamW(ours.parameters(), lr=1e-2), torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    ops.cross_entropy(ours(x), labels).backward()
    theirs.train()(torch.from_numpy(x), labels=torch.from_numpy(labels)).loss.backward()
    # in the library's memory, though not in its files, some names are others; the order is the same
    ours_named = [(n, p) for n, p in ours.named_parameters() if ".self" not in n]
    by_values = {p.detach().numpy().tobytes(): p for p in theirs.parameters()}
    assert len(by_values) == len(ours_named)
    for n, p in ours_named:
        want = by_values[p.detach().numpy().tobytes()].grad.numpy()
        np.testing.assert_allclose(p.grad.numpy(), want, rtol=1e-4, atol=3e-6, err_msg=n)
    step.step(), tstep.step()
    close(ours(x), theirs(torch.from_numpy(x)).logits)


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_vit_on_backends_and_jit(saved, backend):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    theirs, folder = saved(("ViTConfig", "ViTForImageClassification"), num_labels=5, **VIT)
    x = images(12)
    with minidl.use_backend(backend), minidl.no_grad():
        run = minidl.jit(models.from_pretrained(folder).to(backend))
        for _ in range(2):
            close(run(minidl.tensor(x)), theirs(torch.from_numpy(x)).logits)


@pytest.mark.parametrize("kind, width, depths", [("basic", 64, [1, 2, 1, 1]), ("bottleneck", 256, [2, 1, 1, 1])])
def test_resnet(saved, kind, width, depths):
    widths = [width, 2 * width, 4 * width, 8 * width]
    theirs, folder = saved(
        ("ResNetConfig", "ResNetForImageClassification"), perturb=False, layer_type=kind, hidden_sizes=widths,
        depths=depths, num_labels=6,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        norm.weight.data.uniform_(0.7, 1.3, generator=generator)
    theirs.save_pretrained(folder)
    ours = models.from_pretrained(folder)
    x = images(64, n=2)
    with torch.no_grad(), minidl.no_grad():
        close(ours(x), theirs(torch.from_numpy(x)).logits)


def test_other_resnets_are_refused(saved):
    _, folder = saved(
        ("ResNetConfig", "ResNetForImageClassification"), embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
        layer_type="basic",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"config\.json: embedding_size 8, hidden_sizes \[8, 16\] and 2 depths"):
        models.from_pretrained(folder)
    with pytest.raises(ValueError, match="downsample_in_bottleneck is True; written for False"):
        models.from_pretrained(folder, downsample_in_bottleneck=True)
    with pytest.raises(ValueError, match="1000000001 layers are declared"):
        models.from_pretrained(folder, depths=[1, 10**9])


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model"])
def test_gpt2(saved, transformers, kind):
    theirs, folder = saved(("GPT2Config", kind), **GPT2)
    ours = models.from_pretrained(folder)
    assert type(ours) is GPT and not ours.training
    ids = np.random.default_rng(0).integers(1, 41, (3, 9))
    if kind == "GPT2Model":  # its language model is its tied embedding
        want = theirs(torch.from_numpy(ids))[0] @ theirs.wte.weight.T
        close(ours(ids), want)
        return
    close(ours(ids), theirs(torch.from_numpy(ids)).logits)
    everything = torch.ones(3, 9, dtype=torch.int64)
    want = theirs.generate(
        torch.from_numpy(ids), attention_mask=everything, max_new_tokens=8, do_sample=False, pad_token_id=0
    )
    np.testing.assert_array_equal(ours.generate(ids, 8, temperature=0).numpy(), want.numpy())


def test_gpt2s_first_files_have_masks_and_no_prefix(saved):
    from safetensors.numpy import load_file, save_file

    theirs, folder = saved(("GPT2Config", "GPT2LMHeadModel"), **GPT2)
    path = folder / "model.safetensors"
    state = {n.removeprefix("transformer."): a for n, a in load_file(path).items()}
    state["h.0.attn.bias"] = np.tri(20, dtype=np.float32)[None, None]
    save_file(state, path)
    ids = np.random.default_rng(0).integers(1, 41, (3, 9))
    close(models.from_pretrained(folder)(ids), theirs(torch.from_numpy(ids)).logits)


def test_other_gpt2s_are_refused(saved):
    _, folder = saved(("GPT2Config", "GPT2LMHeadModel"), **{**GPT2, "n_inner": 40})
    with pytest.raises(ValueError, match=r"mlp\.c_fc\.weight: shape \(40, 16\), expected \(64, 16\)"):
        models.from_pretrained(folder)
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx is True; written for False"):
        models.from_pretrained(folder, scale_attn_by_inverse_layer_idx=True)
