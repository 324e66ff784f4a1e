from __future__ import annotations

import pytest

from phalanx.infrastructure.linux.overlay import LocalKeys


def test_a_pair_shares_one_secret_that_no_other_pair_has() -> None:
    keys = LocalKeys(("a", "b", "c"))
    assert keys.secret("a", "b") == keys.secret("b", "a")
    assert len({keys.secret("a", "b"), keys.secret("a", "c"), keys.secret("b", "c")}) == 3
    assert len(keys.secret("a", "b")) == 32


def test_a_rotation_changes_every_secret() -> None:
    keys = LocalKeys(("a", "b"))
    before = keys.secret("a", "b")
    keys.rotate()
    assert keys.key("a", "b").generation == 2
    assert keys.secret("a", "b") != before


def test_who_is_revoked_shares_nothing_and_the_others_go_on() -> None:
    keys = LocalKeys(("a", "b", "c"))
    kept = keys.secret("a", "b")
    keys.revoke("c")
    assert keys.members() == {"a", "b"}
    assert keys.secret("a", "b") == kept
    for other in ("c", "a", "unknown"):
        with pytest.raises(KeyError):
            keys.secret("a", other)


def test_a_secret_does_not_show_where_the_keys_are_printed() -> None:
    keys = LocalKeys(("a", "b"))
    secret = keys.secret("a", "b")
    assert secret.hex() not in repr(keys)
    assert repr(secret) not in repr(keys)
