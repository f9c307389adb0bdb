"""Eight devices on any machine, and array shapes checked at every call."""

import os

# Before JAX is imported: it reads this once.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook finds it by name

# Stays installed: every public annotation of gengen is checked while tests run.
install_import_hook("gengen", "tests.typecheck.check")
