"""Damage checkpoints in every way at hand and see that the command always ends as it promises.

    pip install -c constraints.txt .
    python examples/fuzz_checkpoints.py --count 10000 --seed 0

Each mutated file goes through ``levit-deploy fuse``, which reads, proves and publishes. It must end
with exit code 0, 1, 3, 4 or 6, in one paragraph, without a traceback, and leave no file where it
was refused. Prints how often each code came, and fails at the first that breaks this.
"""

import argparse
import contextlib
import io
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from typer.testing import CliRunner

from levit_deploy.cli import app
from levit_deploy.config import Downsample, LeViTConfig, Stage
from levit_deploy.model import LeViT

ALLOWED = {0, 1, 3, 4, 6}
TINY = LeViTConfig(
    image_size=(32, 32),
    in_channels=1,
    num_classes=2,
    stem_dims=(2, 3),
    stages=(
        Stage(dim=3, depth=1, num_heads=1, key_dim=2, value_dim=2, mlp_dim=4),
        Stage(dim=4, depth=1, num_heads=2, key_dim=2, value_dim=2, mlp_dim=0),
    ),
    downsamples=(Downsample(num_heads=1, key_dim=2, value_dim=2, mlp_dim=0),),
)


def torch_file(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def flip(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, anywhere or near an end, where the structure is."""
    mutated = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        near = chance.choice((len(data), 1500))
        place = chance.randrange(min(near, len(data)))
        place = chance.choice((place, len(data) - 1 - place))
        mutated[place] = chance.choice((0, 255, 0x2E, chance.randrange(256)))
    return bytes(mutated)


def cut(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.choice((1, 8, 64, len(data))) :]


def repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.choice((1, 16, 400))]
    place = chance.randrange(len(data))
    return data[:place] + piece + data[place:]


BYTES: list[Callable[[bytes, random.Random], bytes]] = [flip, flip, flip, cut, repeat]


def odd_tensor(tensor: torch.Tensor, chance: random.Random) -> object:
    """The same tensor in another shape, type or kind, or something else altogether."""
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool)
    return chance.choice(
        (
            lambda: tensor.to(chance.choice(kinds)),
            lambda: tensor[None],
            lambda: tensor.flatten(),
            lambda: tensor.flatten()[:0],
            lambda: torch.tensor(1.0),
            lambda: torch.ones(1).expand(chance.choice((7, 2**20, 2**50))),
            lambda: torch.zeros(0, chance.choice((3, 2**40))),
            lambda: tensor.float() * chance.choice((0.0, 1e30, -1.0, float("nan"), float("inf"))),
            lambda: torch.rand([chance.randrange(1, 9) for _ in range(chance.randrange(1, 5))]),
            lambda: tensor.float().to_sparse(),
            lambda: tensor.to("meta"),
            lambda: chance.choice((None, 1, "x", [], {}, {"a": torch.ones(1)})),
        )
    )()


def odd_state(state: dict[str, torch.Tensor], chance: random.Random) -> dict[str, object]:
    mutated: dict[str, object] = dict(state)
    for _ in range(chance.choice((1, 1, 2, 4))):
        key = chance.choice(list(state))
        what = chance.randrange(5)
        if what == 0:
            mutated.pop(key, None)
        elif what == 1:
            new = key.replace(
                chance.choice((".", "0", "m", "c")), chance.choice(("", ".", "9", "x"))
            )
            mutated[new] = mutated.pop(key, torch.ones(1))
        elif what == 2:
            prefix = chance.choice(("module.", "_orig_mod.", "stem.conv1.linear.", "ema."))
            mutated[prefix + key] = state[key]
        else:
            mutated[key] = odd_tensor(state[key], chance)
    return mutated


def mutated(state: dict[str, torch.Tensor], chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        whole = torch_file({"model": state}) if chance.random() < 0.6 else save(state)
        return chance.choice(BYTES)(whole, chance)
    odd = odd_state(state, chance)
    wrapper = chance.choice(("model", "state_dict", "ema", None, "x"))
    return torch_file({wrapper: odd, "epoch": 1} if wrapper else odd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's, about what is deprecated in sparse tensors

    model = LeViT(TINY)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    codes: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "mutated.pth", Path(folder) / "out.safetensors"
        for number in range(args.count):
            chance = random.Random(f"{args.seed}:{number}")
            with contextlib.suppress(RuntimeError):  # torch itself refuses to save some
                path.write_bytes(mutated(model.state_dict(), chance))
            result = CliRunner().invoke(app, ["fuse", str(path), "-o", str(output), "-q"])
            codes[result.exit_code] += 1
            where = f"seed {args.seed}, number {number}: {result.output}"
            assert isinstance(result.exception, SystemExit | None), where
            assert result.exit_code in ALLOWED, where
            assert "Traceback" not in result.output, where
            assert len(result.stderr.strip().splitlines()) == (result.exit_code != 0), where
            left = {entry.name for entry in Path(folder).iterdir()} - {"mutated.pth"}
            assert left == ({"out.safetensors"} if result.exit_code == 0 else set()), where
            output.unlink(missing_ok=True)
    print(f"{args.count} mutated checkpoints, exit codes {dict(sorted(codes.items()))}")


if __name__ == "__main__":
    main()
