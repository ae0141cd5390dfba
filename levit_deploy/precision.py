"""The number formats an artifact can compute in; what it takes and gives is float32 in each."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# int8 products are added up in whole numbers and come out as float32
DTYPES: dict[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "float32",
}
EPS: dict[Precision, float] = {  # one ulp at 1
    "fp32": 2.0**-23,
    "fp16": 2.0**-10,
    "bf16": 2.0**-7,
    "int8": 2.0**-23,
}
