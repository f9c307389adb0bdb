"""The U-Net of `gengen.nn.unet` in PyTorch, which benchmarks.accelerator times beside ours."""

from __future__ import annotations

from typing import Any


def torch_unet(cfg: Any) -> Any:
    """Return the U-Net of `gengen.nn.unet`, with a skip connection after every block."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

    features = 4 * cfg.channels[0]

    class Residual(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = (nn.GroupNorm(cfg.num_groups, c) for c in (before, after))
            self.conv1 = nn.Conv2d(before, after, 3, 1, 1)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
            self.time = nn.Linear(features, 2 * after)
            self.short = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

        def forward(self, x: Any, time: Any) -> Any:
            h = self.conv1(F.silu(self.norm1(x)))
            scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
            h = F.silu(self.norm2(h) * (1 + scale) + shift)
            return self.short(x) + self.conv2(h)

    class Attention(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(cfg.num_groups, c)
            self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)

        def forward(self, x: Any, time: Any) -> Any:
            b, c, h, w = x.shape
            rows = self.norm(x).flatten(2).transpose(1, 2)
            q, k, v = (
                a.unflatten(2, (cfg.num_heads, -1)).transpose(1, 2)
                for a in self.qkv(rows).chunk(3, 2)
            )
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return x + self.out(seen).transpose(1, 2).reshape(b, c, h, w)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            c, side = cfg.channels, cfg.shape[0]
            self.embed1, self.embed2 = nn.Linear(c[0], features), nn.Linear(features, features)
            self.first = nn.Conv2d(cfg.shape[-1], c[0], 3, 1, 1)
            self.down, self.up = nn.ModuleList(), nn.ModuleList()
            widths, now = [c[0]], c[0]

            def layer(before: int, after: int, side: int) -> Any:
                extra = [Attention(after)] if side in cfg.attention else []
                return nn.ModuleList([Residual(before, after), *extra])

            for i, width in enumerate(c):
                for _ in range(cfg.num_blocks[i]):
                    self.down.append(layer(now, width, side >> i))
                    now = width
                    widths.append(now)
                if i < len(c) - 1:
                    self.down.append(nn.Conv2d(now, now, 3, 2, 1))
                    widths.append(now)
            self.middle = nn.ModuleList([Residual(now, now), Attention(now), Residual(now, now)])
            for i in reversed(range(len(c))):
                for _ in range(cfg.num_blocks[i] + 1):
                    self.up.append(layer(now + widths.pop(), c[i], side >> i))
                    now = c[i]
                if i:
                    self.up.append(nn.Conv2d(now, now, 3, 1, 1))
            self.norm = nn.GroupNorm(cfg.num_groups, now)
            self.last = nn.Conv2d(now, cfg.shape[-1], 3, 1, 1)

        def forward(self, x: Any, t: Any) -> Any:
            half = cfg.channels[0] // 2
            angles = t[:, None].float() * 10_000.0 ** (-torch.arange(half, device=t.device) / half)
            time = self.embed1(torch.cat([angles.sin(), angles.cos()], 1))
            time = F.silu(self.embed2(F.silu(time)))
            h = self.first(x)
            skips = [h]
            for part in self.down:
                h = part(h) if isinstance(part, nn.Conv2d) else _through(part, h, time)
                skips.append(h)
            h = _through(self.middle, h, time)
            for part in self.up:
                if isinstance(part, nn.Conv2d):
                    h = part(F.interpolate(h, scale_factor=2.0))
                else:
                    h = _through(part, torch.cat([h, skips.pop()], 1), time)
            return self.last(F.silu(self.norm(h)))

    return Net()


def _through(parts: Any, h: Any, time: Any) -> Any:
    for part in parts:
        h = part(h, time)
    return h
