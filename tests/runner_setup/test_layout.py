"""The paths of a host: all of them below the root, and no two slots share one."""

from __future__ import annotations

from pathlib import Path

from hub_runner.layout import KEY, Layout

PATHS = tuple(name for name, value in vars(Layout).items() if isinstance(value, property))


def test_every_path_is_below_the_root(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert len(PATHS) == 13
    paths = [getattr(layout, name) for name in PATHS]
    for path in (*paths, layout.jit_config(0), layout.disk(0), layout.image(0)):
        assert path.is_relative_to(tmp_path)


def test_a_host_has_its_files_where_the_guide_says() -> None:
    layout = Layout()
    assert layout.key == KEY == Path("/etc/hub-runner/app-key.pem")
    assert layout.config == Path("/etc/hub-runner/hub-runner.toml")
    assert layout.state == Path("/var/lib/hub-runner/state")


def test_slots_share_no_path() -> None:
    layout = Layout()
    for path_of in (layout.jit_config, layout.disk, layout.image):
        assert path_of(0) != path_of(1)
    assert layout.image(0).parent == layout.disk(0).parent
