"""Mixed precision: networks compute in bfloat16; parameters, moments and losses stay float32."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gengen.steps import while_traced
from gengen.types import InputError, Method

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_in(method: Method, dtype: str) -> Method:
    """Let every Linen layer of `method` that leaves its dtype open compute in `dtype`.

    The layers cast their inputs and a copy of their float32 parameters; norms take their moments in
    float32. What comes out of a network meets float32 data in the loss, which is float32 again; so
    are gradients, optimiser and averages. Sampling is not touched.

    Raises:
        InputError: for a dtype that is not one of `DTYPES`. float16 is none: it would need the loss
            to be scaled.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}, but it is {' or '.join(DTYPES)}")
    if dtype == "float32":
        return method

    def set_dtype(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        layer = context.module
        if getattr(layer, "dtype", dtype) is None:
            # A bound layer lives for one trace, and reads its dtype in the call that follows.
            object.__setattr__(layer, "dtype", DTYPES[dtype])
        return next_fun(*args, **kwargs)

    return while_traced(method, lambda: nn.intercept_methods(set_dtype))
