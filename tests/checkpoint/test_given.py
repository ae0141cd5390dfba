import pytest

from levit_deploy.checkpoint.given import Release, release
from levit_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "library", "version"),
    [
        ("vit-pytorch==0.17.0", "vit-pytorch", (0, 17, 0)),
        ("vit_pytorch==0.17.0", "vit-pytorch", (0, 17, 0)),
        ("timm==0.8.6.dev0", "timm", (0, 8, 6)),
        ("timm==0.8.10dev0", "timm", (0, 8, 10)),
        ("mmcls==1.0.0rc6", "mmpretrain", (1, 0, 0)),
        ("mmpretrain==1.2.0+5a3e1d4", "mmpretrain", (1, 2, 0)),
    ],
)
def test_a_release_is_what_pip_freeze_prints(text, library, version):
    assert release(text) == Release(library, version)


@pytest.mark.parametrize("text", ["timm", "timm==", "timm==new", "timm>=0.6", "timm==0.6.", "==1"])
def test_anything_else_is_no_release(text):
    with pytest.raises(UsageError, match="is not a release"):
        release(text)
