import sys
import types

import pytest


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, whose models are the independent implementation compared with."""
    pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    try:
        import torchvision
    except ImportError as error:
        pytest.skip(f"torchvision is the independent implementation compared with ({error})")
    except RuntimeError:
        # beside a PyTorch that it was not compiled for (its wheels are CUDA's), its compiled operators, such as
        # non-maximum suppression, are not there to be described; the models need none of them
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
        import torchvision
    return torchvision


@pytest.fixture(scope="session")
def transformers(torchvision):
    """Hugging Face's library, the independent implementation compared with. It imports torchvision."""
    transformers = pytest.importorskip("transformers", reason="Hugging Face's models are what is compared with")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


@pytest.fixture
def saved(transformers, tmp_path):
    """A function: a small random model of Hugging Face's, and the folder into which it was saved."""
    import torch

    def save(kind, /, perturb=True, **options):
        torch.manual_seed(0)
        config = getattr(transformers, kind[0])(**options)
        model = getattr(transformers, kind[1])(config).eval()
        if perturb:  # biases and norms away from their initial 0 and 1, so that each matters
            for p in model.parameters():
                p.data += 0.1 * torch.randn(p.shape)
        model.save_pretrained(tmp_path)
        return model, tmp_path

    return save
