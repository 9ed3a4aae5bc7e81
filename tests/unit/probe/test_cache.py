import os
from pathlib import Path

import pytest

from otel_ebpf.probe import cache
from otel_ebpf.probe.cache import cache_key, describe, load_entry, store_entry
from tests.unit.probe.artifacts import small_artifact

KEY = cache_key([b"source"])


class Cache:
    """A folder with one good entry, and what was reported about it."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "cache"
        self.compiler_file = tmp_path / "libbcc.so.0"
        self.compiler_file.write_text("bcc 0.26")
        self.messages: list[str] = []
        store_entry(self.folder, KEY, small_artifact(self.compiler_file), self.messages.append)
        self.entry = self.folder / f"{KEY}.bytecode"

    def load(self, key: str = KEY):  # type: ignore[no-untyped-def]
        return load_entry(self.folder, key, self.messages.append)

    def assert_ignored(self, why: str) -> None:
        """One message, and nothing is loaded."""
        assert self.load() is None
        assert 1 == len(self.messages), self.messages
        assert why in self.messages[0]


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_what_was_kept_is_loaded_again_without_a_word(kept: Cache):
    assert small_artifact(kept.compiler_file) == kept.load()
    assert [] == kept.messages


def test_an_absent_entry_is_no_cause_for_a_message(kept: Cache):
    assert kept.load(cache_key([b"another source"])) is None
    assert [] == kept.messages


def test_an_absent_folder_is_no_cause_for_a_message(tmp_path: Path):
    messages: list[str] = []

    assert load_entry(tmp_path / "none", KEY, messages.append) is None
    assert [] == messages


def test_folder_and_entry_are_closed_to_others(kept: Cache):
    assert 0o700 == kept.folder.stat().st_mode & 0o777
    assert 0o600 == kept.entry.stat().st_mode & 0o777


def test_any_changed_byte_is_noticed(kept: Cache):
    content = bytearray(kept.entry.read_bytes())
    for at in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        kept.entry.write_bytes(changed)
        kept.messages.clear()
        kept.assert_ignored("an entry")


def test_a_truncated_entry_is_ignored(kept: Cache):
    """As a full disk or a power cut leaves it."""
    content = kept.entry.read_bytes()
    for length in (0, 5, 30, 60, len(content) - 1):
        kept.entry.write_bytes(content[:length])
        kept.messages.clear()
        kept.assert_ignored("an entry")


def test_an_entry_that_others_may_read_or_write_is_ignored(kept: Cache):
    kept.entry.chmod(0o620)

    kept.assert_ignored("open to others (mode 620)")


def test_a_folder_that_others_may_enter_is_ignored(kept: Cache):
    kept.folder.chmod(0o711)

    kept.assert_ignored("the folder is open to others")


def test_what_belongs_to_another_user_is_ignored(kept: Cache, monkeypatch: pytest.MonkeyPatch):
    owner = kept.folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    kept.assert_ignored(f"the folder belongs to user {owner}, not {owner + 1}")


def test_a_link_in_place_of_the_entry_is_not_followed(kept: Cache, tmp_path: Path):
    moved = kept.entry.rename(tmp_path / "elsewhere")
    kept.entry.symlink_to(moved)

    kept.assert_ignored("symbolic link")


def test_a_second_name_for_the_entry_is_refused(kept: Cache, tmp_path: Path):
    """A hard link may lie where others can reach it."""
    os.link(kept.entry, tmp_path / "second")

    kept.assert_ignored("no ordinary file")


def test_a_pipe_in_place_of_the_entry_does_not_stop_the_start(kept: Cache):
    kept.entry.unlink()
    os.mkfifo(kept.entry, 0o600)

    kept.assert_ignored("no ordinary file")


def test_a_link_in_place_of_the_folder_is_not_followed(kept: Cache, tmp_path: Path):
    moved = kept.folder.rename(tmp_path / "elsewhere")
    kept.folder.symlink_to(moved)

    kept.assert_ignored("ignoring the bytecode cache")


def test_an_entry_under_another_key_is_ignored(kept: Cache):
    other = cache_key([b"another source"])
    kept.entry.rename(kept.folder / f"{other}.bytecode")

    assert kept.load(other) is None
    assert "does not match its digest" in kept.messages[0]


def test_a_changed_compiler_makes_its_entries_stale(kept: Cache):
    """An upgrade of bcc or LLVM may mend what it compiled wrongly."""
    kept.compiler_file.write_text("bcc 0.27, longer")

    kept.assert_ignored("another installation of bcc")


def test_a_removed_compiler_makes_its_entries_stale(kept: Cache):
    kept.compiler_file.unlink()

    kept.assert_ignored("another installation of bcc")


def test_the_entries_used_longest_ago_are_removed(kept: Cache):
    keys = [KEY] + [cache_key([str(number).encode()]) for number in range(cache.MAX_ENTRIES)]
    for age, key in enumerate(keys[1:]):
        store_entry(kept.folder, key, small_artifact(kept.compiler_file), kept.messages.append)
        os.utime(kept.folder / f"{key}.bytecode", (age + 1, age + 1))
    kept.load(KEY)  # used just now, so another one goes

    store_entry(kept.folder, cache_key([b"new"]), small_artifact(kept.compiler_file), kept.messages.append)

    left = {path.name.removesuffix(".bytecode") for path in kept.folder.iterdir()}
    assert {KEY, cache_key([b"new"]), *keys[3:]} == left
    assert [] == kept.messages


def test_what_an_interrupted_start_left_is_removed(kept: Cache):
    (kept.folder / f"{KEY}.0123.new").write_text("half")

    store_entry(kept.folder, KEY, small_artifact(kept.compiler_file), kept.messages.append)

    assert [kept.entry] == list(kept.folder.iterdir())


def test_a_folder_that_cannot_be_made_costs_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    messages: list[str] = []

    store_entry(tmp_path / "file" / "cache", KEY, small_artifact(), messages.append)

    assert 1 == len(messages)
    assert "cannot keep the compiled probes" in messages[0]


def test_the_parts_of_a_key_are_kept_apart():
    assert cache_key([b"ab", b"c"]) != cache_key([b"a", b"bc"])


def test_the_state_is_told_in_words(kept: Cache, tmp_path: Path):
    assert (True, f"{kept.folder}, 1 kept") == describe(kept.folder)
    assert (True, f"{tmp_path}/none, not there yet") == describe(tmp_path / "none")
    kept.folder.chmod(0o755)
    usable, words = describe(kept.folder)
    assert not usable
    assert "open to others" in words
