"""Networks built and saved by the upstream libraries themselves, where those are installed.

The goldens are the same check on stored files; this one follows what the libraries do today. timm
and vit-pytorch need torchvision, which has no build for some of the torches we test with. Older
releases can be installed instead: vit-pytorch from 0.15.2 and timm from 0.6.13 on pass, too.
"""

import copy
import importlib
import importlib.metadata
import json

import numpy as np
import pytest
import torch

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.passes.stage_maps import stage_maps

ARCHITECTURES = [
    {"dims": (16, 24, 32), "depths": (1, 2, 1), "heads": (2, 3, 4), "size": 96},
    {"dims": (24, 40), "depths": (2, 1), "heads": (3, 2), "size": 64},
    {"dims": (8,), "depths": (1,), "heads": (1,), "size": 32},
]


def upstream(module):
    """Import a module of an upstream library, or skip and say why."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library that does not fit torch raises whatever it likes
        pytest.skip(f"{module} does not import here: {type(error).__name__}: {error}")


def randomised(model, seed=0):
    """Give every parameter and statistic a random value, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                uniform(tensor, 0.3, 2)
            elif name.endswith("running_mean"):
                uniform(tensor, -0.5, 0.5)
            elif tensor.dim() == 1:
                uniform(tensor, 0.5, 1.5)
            elif tensor.is_floating_point():
                width = tensor[0].numel() ** -0.5
                uniform(tensor, -2 * width, 2 * width)
    return model.eval()


def logits(model, x):
    with torch.inference_mode():
        out = copy.deepcopy(model).double()(x.double())
    if isinstance(out, tuple):
        out = sum(out) / len(out)
    return np.asarray(getattr(out, "logits", out))


def installed(library):
    return f"{library}=={importlib.metadata.version(library)}"


def assert_same(checkpoint, model, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    assert checkpoint.config.image_size == size
    expected = logits(model, x)
    actual = logits(checkpoint.model, x)
    assert np.abs(actual - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("architecture", ARCHITECTURES[:2])
@pytest.mark.parametrize(
    "head", ["LevitForImageClassification", "LevitForImageClassificationWithTeacher"]
)
def test_transformers(architecture, head, tmp_path):
    transformers = upstream("transformers")
    transformers.utils.logging.disable_progress_bar()
    n = len(architecture["dims"])
    if n < 3:
        architecture = ARCHITECTURES[0] | {"size": 64, "depths": (2, 1, 3)}  # it knows only three
    config = transformers.LevitConfig(
        image_size=architecture["size"],
        hidden_sizes=list(architecture["dims"]),
        depths=list(architecture["depths"]),
        num_attention_heads=list(architecture["heads"]),
        key_dim=[8, 8, 8],
        num_labels=5,
    )
    model = randomised(getattr(transformers, head)(config))
    model.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert_same(checkpoint, model, (architecture["size"], architecture["size"]))
    assert checkpoint.config.distillation == head.endswith("WithTeacher")


def test_transformers_without_a_head(tmp_path):
    transformers = upstream("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        depths=[1, 2, 1],
        num_attention_heads=[2, 3, 4],
        key_dim=[8, 8, 8],
        id2label={0: "cat", 1: "dog", 2: "eel"},
    )
    model = randomised(transformers.LevitModel(config))
    model.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        expected = model.double()(x).pooler_output.numpy()
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.head, checkpoint.labels) == ("none", ())
    assert np.abs(logits(checkpoint.model, x) - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_128s"])
def test_timms_features_only(name, tmp_path):
    """It wraps the network, or flattens the first names of it."""
    timm = upstream("timm")
    model = timm.create_model(
        name, features_only=True, img_size=(64, 96), embed_dim=(16, 24, 32), depth=(1, 2, 1)
    )
    randomised(model)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth", image_size=(64, 96))
    assert checkpoint.config.headless
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        maps = stage_maps(checkpoint.model).double()(x)
        expected = model.double()(x)
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-10 * theirs.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("use_conv", [False, True])
@pytest.mark.parametrize("kind", ["Levit", "LevitDistilled"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"act_layer": "silu"},
        {"act_layer": "gelu", "attn_act_layer": "silu", "stem_type": "s8"},
        {"img_size": (64, 128)},
    ],
)
def test_timm(architecture, use_conv, kind, arguments, tmp_path):
    levit = upstream("timm.models.levit")
    if not hasattr(levit, "Stem16"):
        pytest.skip("this timm saves the official names")
    built_with = {
        "img_size": architecture["size"],
        "num_classes": 5,
        "embed_dim": architecture["dims"],
        "key_dim": 8,
        "depth": architecture["depths"],
        "num_heads": architecture["heads"],
        "use_conv": use_conv,
        **arguments,
    }
    model = randomised(getattr(levit, kind)(**built_with))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "pytorch_model.bin")
    saved = {"architecture": "levit_256", "model_args": built_with}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    size = built_with["img_size"]
    assert_same(read_checkpoint(tmp_path), model, (size, size) if isinstance(size, int) else size)


@pytest.mark.parametrize("kind", ["Levit", "LevitDistilled"])
@pytest.mark.parametrize("activation", ["hardswish", "silu", "gelu", "relu"])
def test_timm_with_official_names(kind, activation, tmp_path):
    levit = upstream("timm.models.levit")
    if hasattr(levit, "Stem16"):
        pytest.skip("this timm saves its own names")
    architecture = ARCHITECTURES[0]
    model = getattr(levit, kind)(
        img_size=architecture["size"],
        num_classes=5,
        embed_dim=architecture["dims"],
        key_dim=8,
        depth=architecture["depths"],
        num_heads=architecture["heads"],
        act_layer=activation,
    )
    model = randomised(model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(
        tmp_path / "a.pth", activation=activation, trained_with=installed("timm")
    )
    assert_same(checkpoint, model, (96, 96))


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("head", [{"distillation": False}, {"distillation": True}])
@pytest.mark.parametrize("activation", ["HSwish", "GELU"])
def test_mmpretrain(activation, head, deployed, tmp_path, monkeypatch):
    upstream("mmpretrain")
    levit = upstream("mmpretrain.models.backbones.levit")
    architecture = {
        "embed_dims": [16, 24, 32],
        "num_heads": [2, 3, 4],
        "depths": [1, 2, 1],
        "key_dims": [8, 8, 8],
    }
    monkeypatch.setitem(levit.LeViT.arch_zoo, "small", architecture)  # its own dicts do not load
    config = {
        "type": "ImageClassifier",
        "backbone": {
            "type": "LeViT",
            "arch": "small",
            "img_size": 96,
            "act_cfg": {"type": activation},
        },
        "neck": {"type": "GlobalAveragePooling"},
        "head": {"type": "LeViTClsHead", "num_classes": 5, "in_channels": 32, **head},
    }
    model = randomised(upstream("mmpretrain.registry").MODELS.build(config))
    if deployed:
        model.backbone.switch_to_deploy()
        model.head.switch_to_deploy()
        model.eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(
        tmp_path / "a.pth", activation="gelu" if activation == "GELU" else None
    )
    assert_same(checkpoint, model, (96, 96))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("distill", [None, 5])
def test_vit_pytorch(architecture, distill, tmp_path):
    levit = upstream("vit_pytorch.levit")
    model = levit.LeViT(
        image_size=architecture["size"],
        num_classes=5,
        dim=architecture["dims"],
        depth=architecture["depths"],
        heads=architecture["heads"],
        mlp_mult=2,
        stages=len(architecture["dims"]),
        dim_key=8,
        dim_value=12,
        num_distill_classes=distill,
    )
    model = randomised(model)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt", trained_with=installed("vit-pytorch"))
    assert_same(checkpoint, model, (architecture["size"], architecture["size"]))


@pytest.mark.parametrize("name", ["levit_128s", "levit_conv_256d", "levit_384_s8"])
def test_a_hub_folder_of_timm(name, tmp_path):
    timm = upstream("timm")
    if not hasattr(upstream("timm.models.levit"), "Stem16"):
        pytest.skip("this timm saves no such folder")
    model = timm.create_model(name, num_classes=5, img_size=64)
    model = randomised(model)
    timm.models.save_for_hf(model, str(tmp_path))
    checkpoint = read_checkpoint(tmp_path)
    assert_same(checkpoint, model, (64, 64))
    assert checkpoint.config.activation == ("hardswish" if name == "levit_128s" else "silu")
    assert [text for text in checkpoint.assumed if "eps" not in text] == []
