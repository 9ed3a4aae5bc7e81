"""README.md says of every setting what the program knows of it."""

from pathlib import Path

from otel_ebpf.config import SETTINGS, settings_table, with_settings_table

README = Path(__file__).parents[2] / "README.md"


def test_the_table_of_settings_is_the_programs() -> None:
    readme = README.read_text()

    assert with_settings_table(readme) == readme, "run: python -m otel_ebpf.config"


def test_every_setting_has_one_row_with_its_names_and_default() -> None:
    rows = settings_table().splitlines()[2:]

    assert len(SETTINGS) == len(rows)
    for setting, row in zip(SETTINGS, rows, strict=True):
        assert 4 == row.count("|"), f"{setting.name}: a | would begin another column"
        assert all(f"`{name}`" in row for name in setting.names)
        assert f"| {f'`{setting.default}`' if setting.default else 'unset'} |" in row
        assert row.endswith(f" {setting.help} |")


def test_bringing_the_table_up_to_date_leaves_the_rest_alone() -> None:
    before = "# Title\n\n<!-- settings -->\nold\n<!-- /settings -->\n\nEnd.\n"
    after = with_settings_table(before)

    assert after == f"# Title\n\n<!-- settings -->\n{settings_table()}\n<!-- /settings -->\n\nEnd.\n"
    assert with_settings_table(after) == after
