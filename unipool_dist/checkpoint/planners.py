"""The two plans that torch.distributed.checkpoint asks for, made from pieces."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.default_planner import (
    create_default_global_load_plan,
    create_default_global_save_plan,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from unipool_dist.checkpoint.pieces import Box, Piece
from unipool_dist.errors import CheckpointError
from unipool_dist.model.inventory import MASTER, split_key

Filled = list[tuple[Piece, Tensor]]
"""Pieces and their elements, one-dimensional."""


class PieceSavePlanner(SavePlanner):
    """A planner that writes the pieces given to this rank, box by box, masters first: the order of loading."""

    def __init__(self, pieces: Filled) -> None:
        ordered = sorted(pieces, key=lambda filled: split_key(filled[0].key)[0] != MASTER)
        self._boxes = {
            (piece.key, box.offsets): (piece, box, values) for piece, values in ordered for box in piece.boxes()
        }

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        pass

    def create_local_plan(self) -> SavePlan:
        return SavePlan([_write_item(piece, box, values.dtype) for piece, box, values in self._boxes.values()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        assert write_item.index.offset is not None
        _, box, values = self._boxes[write_item.index.fqn, tuple(write_item.index.offset)]
        # By way of numpy the tensor's storage is the box alone; the writer would copy a tensor with a larger one.
        return torch.from_numpy(_view(box, values).numpy())


class PieceLoadPlanner(LoadPlanner):
    """A planner that reads into pieces, from whatever boxes the checkpoint has.

    Raises:
        CheckpointError: the checkpoint lacks a tensor or part of one, or has it in another shape.
    """

    def __init__(self, pieces: Filled) -> None:
        self._pieces = pieces
        self._boxes: dict[str, list[tuple[Box, Tensor]]] = {}
        for piece, values in pieces:
            self._boxes.setdefault(piece.key, []).extend((box, values) for box in piece.boxes())
        self._metadata: Metadata | None = None

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        self._metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        assert self._metadata is not None
        shapes = {piece.key: piece.shape for piece, _ in self._pieces}
        items: list[ReadItem] = []
        for key, boxes in self._boxes.items():
            saved = self._metadata.state_dict_metadata.get(key)
            if not isinstance(saved, TensorStorageMetadata):
                raise CheckpointError(f"the checkpoint has no tensor {key}; was it saved by another optimizer.name?")
            if tuple(saved.size) != shapes[key]:
                raise CheckpointError(
                    f"tensor {key} has shape {tuple(saved.size)} in the checkpoint, not {shapes[key]}"
                )
            chunks = [ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)) for box, _ in boxes]
            reads = create_read_items_for_chunk_list(key, saved, chunks)
            found, wanted = sum(read.lengths.numel() for read in reads), sum(box.numel for box, _ in boxes)
            if found != wanted:
                raise CheckpointError(f"the checkpoint holds {found} of {wanted} elements wanted of tensor {key}")
            items += reads
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return create_default_global_load_plan(global_plan)

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise CheckpointError(f"{read_item.dest_index.fqn} is not a tensor: this is not a checkpoint of unipool_dist")

    def resolve_bytes(self, read_item: ReadItem) -> io.BytesIO:
        raise AssertionError("no item is of bytes")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        index = read_item.dest_index
        assert index.index is not None
        box, values = self._boxes[index.fqn][index.index]
        return narrow_tensor_by_index(_view(box, values), read_item.dest_offsets, read_item.lengths)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        pass


def _view(box: Box, values: Tensor) -> Tensor:
    return values.narrow(0, box.start, box.numel).view(box.sizes)


def _write_item(piece: Piece, box: Box, dtype: torch.dtype) -> WriteItem:
    return WriteItem(
        index=MetadataIndex(piece.key, box.offsets),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)),
            properties=TensorProperties(dtype=dtype),
            size=torch.Size(piece.shape),
        ),
    )
