"""Representations: embeddings of pairs, style and texture, views of codes."""
