"""Metrics: numbers that judge samples, each a plain function of arrays.

Features in, numbers out: no metric knows a network, a model or a file. Where features come from is
another matter: `classifier` for the offline data sets, `gengen.nn.inception` for natural images.
Real and generated are always named, `real=` and `fake=`: swapped, recall would be precision.
Every number wants its floor beside it, the same of real held-out data in the fakes' place.
"""
