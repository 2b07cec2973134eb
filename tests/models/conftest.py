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
