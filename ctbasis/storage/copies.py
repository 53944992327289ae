"""Copying whole stores, between folders and S3 in any direction."""

from __future__ import annotations

from ctbasis.storage import stores
from ctbasis.storage.array_layout import ROOT
from ctbasis.storage.array_store import ArrayStore
from ctbasis.storage.objects import open_objects
from ctbasis.storage.root import encode_root
from ctbasis.storage.schemas import SCHEMAS


def copy(source: str, target: str) -> None:
    """Copy the complete store at `source` to `target` and replace a store that is there; the root is copied last.

    Exactly the objects that the manifest lists are copied. A key that merely lies in the bucket, which might be
    `../../name`, is not.

    Raises:
        CtbasisError: The store is not complete or lacks an object; there are other files at `target`; S3 denies access.
        OSError: The folder cannot be written.
    """
    store = ArrayStore.open(source, *(schema for schema in SCHEMAS.values() if not schema.open_names))
    if store.schema.members:
        store.members(SCHEMAS[store.schema.member_kind])
    stores.delete(target)
    # The target is marked as a store before its first chunk, so that the remains of an interruption can be replaced.
    open_objects(target).write(ROOT, encode_root(store.schema, {}, None))
    stores.copy_keys(source, target, (key for key in store.object_keys() if key != ROOT))
    stores.copy_keys(source, target, [ROOT])
