"""The weights of a network for a graph: as its file stores them, or as they are in memory."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from asr.export.graph_builder import Weight
from asr.models.tensors import load_tensors, split_scales


def read_weights(path: Path) -> dict[str, Weight]:
    """The weights of ``model.safetensors`` by name. Raises ``ModelError`` naming a file that cannot be read."""
    tensors, scales = split_scales(load_tensors(path)[0], path)
    return {name: _weight(tensor, scales.get(name)) for name, tensor in tensors.items()}


def network_weights(network: nn.Module) -> dict[str, Weight]:
    """The weights of a network by name, float32."""
    return {name: _weight(tensor.detach().float(), None) for name, tensor in network.state_dict().items()}


def _weight(tensor: Tensor, scale: Tensor | None) -> Weight:
    rows = None if scale is None else scale.float().view(-1, *[1] * (tensor.ndim - 1)).cpu().numpy()
    return Weight(tensor.cpu().numpy(), rows)
