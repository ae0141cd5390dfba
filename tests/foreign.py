"""A trained LeViT as each family saves it: written from the upstream modules, not from our readers.

Each function walks the architecture in the order the upstream constructor builds it.
"""

import torch
from hypothesis import strategies as st
from networks import configs, trained

from levit_deploy.config import LeViTConfig
from levit_deploy.model import LeViT

State = dict[str, torch.Tensor]


def blocks_of(config: LeViTConfig):
    """Yield ('attention' | 'mlp' | 'subsampling', stage, place within the stage), in order."""
    for i, stage in enumerate(config.stages):
        for b in range(stage.depth):
            yield "attention", i, b
            if stage.mlp_dim:
                yield "mlp", i, b
        if i < len(config.downsamples):
            yield "subsampling", i, None
            if config.downsamples[i].mlp_dim:
                yield "subsampling mlp", i, None


def copied(source: State, old: str, new: str, target: State, renamed=()) -> None:
    """Copy what begins with ``old``, under ``new``, with parts of the rest renamed."""
    for key, tensor in source.items():
        if key.startswith(old):
            rest = key.removeprefix(old)
            for a, b in renamed:
                rest = rest.replace(a, b)
            target[new + rest] = tensor.clone()


def official_conv(model: LeViT, _config: LeViTConfig) -> State:
    """levit_c.py: every linear layer of the trunk is a 1x1 convolution."""
    state = {}
    for key, tensor in model.state_dict().items():
        linear = key.startswith("blocks.") and key.endswith(".c.weight")
        state[key] = tensor[:, :, None, None] if linear else tensor
    return state


def timm(model: LeViT, config: LeViTConfig) -> State:
    source, state = model.state_dict(), {}
    for n in range(len(config.stem_dims)):
        copied(source, f"patch_embed.{2 * n}.", f"stem.conv{n + 1}.", state, [("c.", "linear.")])
    inner = [(".c.", ".linear."), ("proj.1.", "proj.ln."), ("q.1.", "q.ln.")]
    mlp = [("c.", "linear.")]
    for number, (kind, stage, b) in enumerate(blocks_of(config)):
        old = f"blocks.{number}."
        if kind == "attention":
            copied(source, f"{old}m.", f"stages.{stage}.blocks.{b}.attn.", state, inner)
        elif kind == "subsampling":
            new = f"stages.{stage + 1}.downsample.attn_downsample."
            copied(source, old, new, state, inner)
        else:
            where = f"blocks.{b}" if kind == "mlp" else "downsample"
            new = f"stages.{stage if kind == 'mlp' else stage + 1}.{where}.mlp."
            copied(source, f"{old}m.0.", f"{new}ln1.", state, mlp)
            copied(source, f"{old}m.2.", f"{new}ln2.", state, mlp)
    for head in ("head.", "head_dist."):
        copied(source, head, head, state, [("l.", "linear.")])
    return {key: tensor for key, tensor in state.items() if not key.endswith("_idxs")}


def timm_conv(model: LeViT, config: LeViTConfig) -> State:
    return {
        key: tensor[:, :, None, None]
        if key.startswith("stages.") and key.endswith("linear.weight")
        else tensor
        for key, tensor in timm(model, config).items()
    }


def transformers(model: LeViT, config: LeViTConfig) -> State:
    source, state = model.state_dict(), {}
    names = [(".c.", ".linear."), (".bn.", ".batch_norm.")]
    for n in range(len(config.stem_dims)):
        new = f"levit.patch_embeddings.embedding_layer_{n + 1}."
        renamed = [("c.", "convolution."), ("bn.", "batch_norm.")]
        copied(source, f"patch_embed.{2 * n}.", new, state, renamed)
    layer, last_stage = 0, 0
    for number, (kind, stage, _) in enumerate(blocks_of(config)):
        layer = 0 if stage != last_stage else layer
        last_stage = stage
        old, new = f"blocks.{number}.", f"levit.encoder.stages.{stage}.layers.{layer}."
        layer += 1
        if kind == "attention":
            inner = [("qkv.", "queries_keys_values."), ("proj.1.", "projection."), *names]
            copied(source, f"{old}m.", f"{new}module.", state, inner)
        elif kind == "subsampling":
            inner = [("kv.", "keys_values."), ("q.1.", "queries."), ("proj.1.", "projection.")]
            copied(source, old, new, state, [*inner, *names])
        else:
            for i, linear in (("0", "linear_up"), ("2", "linear_down")):
                renamed = [("c.", "linear."), ("bn.", "batch_norm.")]
                copied(source, f"{old}m.{i}.", f"{new}module.{linear}.", state, renamed)
    for old, new in (("head.", "classifier."), ("head_dist.", "classifier_distill.")):
        copied(source, old, new, state, [("bn.", "batch_norm."), ("l.", "linear.")])
    return state


def layernorm(model: LeViT, config: LeViTConfig) -> State:
    attentions = [i for i, (kind, *_) in enumerate(blocks_of(config)) if kind == "attention"]
    state = {}
    for key, tensor in model.state_dict().items():
        for i in attentions:
            key = key.replace(f"blocks.{i}.m.proj.1.", f"blocks.{i}.m.proj.")
        state[key] = tensor
    return state


def vit_pytorch(model: LeViT, config: LeViTConfig) -> State:
    source, state = model.state_dict(), {}
    for n in range(len(config.stem_dims)):
        copied(source, f"patch_embed.{2 * n}.", f"conv_embedding.{n}.", state)
    for number, (kind, stage, b) in enumerate(blocks_of(config)):
        backbone = 2 * stage + kind.startswith("subsampling")
        layer = f"backbone.{backbone}.layers.{b or 0}."
        old = f"blocks.{number}."
        if kind in ("attention", "subsampling"):
            part = config.stages[stage] if kind == "attention" else config.downsamples[stage]
            widths = [part.key_dim, part.value_dim]
            names, joint = ["to_k", "to_v"], "kv"
            if kind == "attention":
                old += "m."
                widths, names, joint = [part.key_dim, *widths], ["to_q", *names], "qkv"
            for key in [key for key in source if key.startswith(f"{old}{joint}.")]:
                rest = key.removeprefix(f"{old}{joint}.")
                rest = rest.replace("c.", "0.").replace("bn.", "1.")
                if source[key].dim() == 0:
                    separate = [source[key]] * len(names)
                else:
                    by_head = source[key].reshape(part.num_heads, -1, *source[key].shape[1:])
                    separate = [t.flatten(0, 1) for t in by_head.split(widths, dim=1)]
                for name, tensor in zip(names, separate, strict=True):
                    tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
                    state[f"{layer}0.{name}.{rest}"] = tensor
            conv = [("c.", "0."), ("bn.", "1.")]
            copied(source, f"{old}q.1.", f"{layer}0.to_q.", state, conv)
            conv = [("c.", "1."), ("bn.", "2.")]
            copied(source, f"{old}proj.1.", f"{layer}0.to_out.", state, conv)
            state[f"{layer}0.pos_bias.weight"] = source[f"{old}attention_biases"].T.contiguous()
            state[f"{layer}0.pos_indices"] = source[f"{old}attention_bias_idxs"]
        else:
            copied(source, f"{old}m.0.", f"{layer}1.net.0.", state)
            copied(source, f"{old}m.2.", f"{layer}1.net.3.", state)
    copied(source, "head.", "mlp_head.", state)
    copied(source, "head_dist.", "distill_head.", state)
    for key, tensor in state.items():
        if ".layers." in key and key.endswith("weight") and tensor.dim() == 2:
            state[key] = tensor if "pos_bias" in key else tensor[:, :, None, None]
    return state


def mmpretrain(model: LeViT, config: LeViTConfig) -> State:
    """levit.py and levit_head.py of mmpretrain 1.2.0: ImageClassifier's backbone and head."""
    source, state = model.state_dict(), {}
    for n in range(len(config.stem_dims)):
        new = f"backbone.patch_embed.patch_embed.{2 * n}."
        copied(source, f"patch_embed.{2 * n}.", new, state, [("c.", "conv.")])
    block, last_stage = 0, 0
    for number, (kind, stage, _) in enumerate(blocks_of(config)):
        stage += kind.startswith("subsampling")
        block = block + 1 if stage == last_stage and number else 0
        last_stage = stage
        old, new = f"blocks.{number}.", f"backbone.stages.{stage}.{block}."
        if kind == "attention":
            copied(source, f"{old}m.", f"{new}block.", state, [(".c.", ".linear.")])
        elif kind == "subsampling":
            copied(source, old, new, state, [(".c.", ".linear.")])
        else:
            for i, linear in (("0", "linear1"), ("2", "linear2")):
                copied(source, f"{old}m.{i}.", f"{new}block.{linear}.", state, [("c.", "linear.")])
    for head in ("head", "head_dist"):
        copied(source, f"{head}.", f"head.{head}.", state, [("l.", "linear.")])
    return state


OFFICIAL = {
    "stem_activation": None,
    "attention_activation": None,
    "norm": "batchnorm",
    "bias_over_scale": False,
}
MMPRETRAIN = {**OFFICIAL, "stem_activation": "hardswish"}  # HybridBackbone takes no act_cfg
VIT_PYTORCH = {
    "activation": "hardswish",
    "stem_activation": "none",
    "attention_activation": "gelu",
    "norm": "batchnorm-in-attention",
    "bias_over_scale": True,
}

# Family: how it saves, and what its code fixes.
FAMILIES = {
    "official": (lambda model, _config: model.state_dict(), OFFICIAL),
    "official conv": (official_conv, OFFICIAL),
    "official fused": (lambda model, _config: model.state_dict(), {**OFFICIAL, "norm": "none"}),
    "timm": (timm, OFFICIAL),
    "timm conv": (timm_conv, OFFICIAL),
    "transformers": (transformers, {**OFFICIAL, "activation": "hardswish"}),
    "LayerNorm variant": (layernorm, {**OFFICIAL, "norm": "layernorm"}),
    "mmpretrain": (mmpretrain, MMPRETRAIN),
    "mmpretrain fused": (mmpretrain, {**MMPRETRAIN, "norm": "none"}),
    "vit-pytorch": (vit_pytorch, VIT_PYTORCH),
}


@st.composite
def saved(draw, families=tuple(FAMILIES)):
    """A family, a network of the kind it has, and its tensors as the family saves them."""
    family = draw(st.sampled_from(families))
    save, fixed = FAMILIES[family]
    config = draw(configs()).replace(**fixed)
    model = trained(config, seed=draw(st.integers(0, 99)))
    return family, config, model, save(model, config)


def state_of(family: str, config: LeViTConfig, seed: int = 0) -> State:
    """The tensors of a network of this architecture as ``family`` saves them."""
    save, fixed = FAMILIES[family]
    config = config.replace(**fixed)
    return save(trained(config, seed), config)
