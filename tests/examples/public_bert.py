"""Random weights under the names that public checkpoints of BERT have, for tests that load them."""

import numpy as np

from examples.models.bert import BertConfig


def public_tensors(config: BertConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of the public `bert-base-uncased`, dense layers as [out, in], no classifier."""
    width, shapes = config.width, {}
    rows = {"word": config.vocabulary_size, "position": config.max_length, "token_type": 2}
    for name, count in rows.items():
        shapes[f"bert.embeddings.{name}_embeddings.weight"] = (count, width)
    dense = {"bert.pooler.dense": (width, width)}
    norms = ["bert.embeddings.LayerNorm"]
    for index in range(config.block_count):
        layer = f"bert.encoder.layer.{index}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            dense[f"{layer}.attention.{name}"] = (width, width)
        dense |= {f"{layer}.intermediate.dense": (4 * width, width), f"{layer}.output.dense": (width, 4 * width)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    random = np.random.default_rng(seed)
    return {name: random.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}
