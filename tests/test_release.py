"""What tools/release.py finds missing, each fault alone in an otherwise ready workspace."""

import pytest

import release


@pytest.fixture
def ready(workspace):
    """losses 0.3.0, released once before, and sft 1.0.0 that needs it: both ready."""
    workspace.add("losses", version="0.3.0")
    workspace.add("sft", version="1.0.0", needs=("jax>=0.8", "coldforge-losses>=0.3,<0.4"))
    workspace.commit()
    workspace.git("tag", "losses-v0.2.9")
    return workspace


def outcome(capsys, workspace, *arguments):
    code = release.main(["--root", str(workspace.root), *arguments])
    return code, capsys.readouterr().out


def test_ready_package_passes_and_the_tag_is_named(capsys, ready):
    code, printed = outcome(capsys, ready, "losses")
    assert (code, printed) == (0, "losses-v0.3.0: ready. Next: git tag losses-v0.3.0\n")


def test_all_takes_each_version_without_a_tag(capsys, ready):
    assert outcome(capsys, ready, "--all") == (
        0,
        "losses-v0.3.0: ready. Next: git tag losses-v0.3.0\nsft-v1.0.0: ready. Next: git tag sft-v1.0.0\n",
    )
    ready.git("tag", "losses-v0.3.0")
    code, printed = outcome(capsys, ready, "--all")
    assert code == 0
    assert "losses" not in printed
    ready.git("tag", "sft-v1.0.0")
    assert outcome(capsys, ready, "--all") == (0, "Nothing to release: every version has its tag.\n")


@pytest.mark.parametrize("version", ["0.3", "0.3.0rc1", "v0.3.0", "0.03.0", "0.3.0.1"])
def test_version_of_another_form(capsys, ready, version):
    ready.add("losses", version=version)
    ready.commit()
    code, printed = outcome(capsys, ready, "losses")
    assert code == 1
    assert f"version is {version!r}; wanted X.Y.Z" in printed


def test_released_version(capsys, ready):
    ready.git("tag", "losses-v0.3.0")
    code, printed = outcome(capsys, ready, "losses")
    assert code == 1
    assert "tag losses-v0.3.0 exists" in printed


def test_version_before_the_last_release_compares_numbers(capsys, ready):
    ready.git("tag", "losses-v0.10.0")
    code, printed = outcome(capsys, ready, "losses")
    assert code == 1
    assert "before the last release 0.10.0" in printed


def test_another_packages_tag_does_not_count(capsys, ready):
    ready.git("tag", "losses-extra-v9.0.0")
    assert outcome(capsys, ready, "losses")[0] == 0


@pytest.mark.parametrize(
    ("changelog", "finding"),
    [
        ("# Changelog\n\n## Unreleased\n\n- News.\n", "no section for this version; wanted `## 0.3.0 - YYYY-MM-DD`"),
        ("## 0.3.0\n\n- News.\n", "dates 0.3.0 None"),
        ("## 0.3.0 - 2. January\n\n- News.\n", "no section for this version"),
        ("## 0.3.0 - 2026-13-01\n\n- News.\n", "dates 0.3.0 '2026-13-01'"),
        ("## 0.3.0 - 2999-01-01\n\n- News.\n", "not in the future"),
        ("## 0.3.0 - 2026-01-02\n\n## 0.2.9 - 2026-01-01\n\n- Old.\n", "says nothing under 0.3.0"),
        ("## 0.2.9 - 2026-01-01\n\n- Old.\n\n## 0.3.0 - 2026-01-02\n\n- News.\n", "0.2.9 above 0.3.0"),
    ],
)
def test_changelog_faults(capsys, ready, changelog, finding):
    ready.write("packages/losses/CHANGELOG.md", changelog)
    ready.commit()
    code, printed = outcome(capsys, ready, "losses")
    assert code == 1
    assert finding in printed


def test_unreleased_section_may_stand_on_top(capsys, ready):
    ready.write("packages/losses/CHANGELOG.md", "## Unreleased\n\n## 0.3.0 - 2026-01-02\n\n- News.\n")
    ready.commit()
    assert outcome(capsys, ready, "losses")[0] == 0


@pytest.mark.parametrize("name", ["CHANGELOG.md", "README.md", "LICENSE", "src/coldforge/losses/py.typed"])
def test_missing_file(capsys, ready, name):
    (ready.root / "packages/losses" / name).unlink()
    ready.commit()
    code, printed = outcome(capsys, ready, "losses")
    assert code == 1
    assert f"{name.rpartition('/')[2]} is missing" in printed


@pytest.mark.parametrize(
    ("need", "finding"),
    [
        ("coldforge-losses", "another form; wanted `coldforge-losses>=0.3,<0.4`"),
        ("coldforge-losses>=0.3", "another form"),
        ("coldforge-losses~=0.3.0", "another form"),
        ("coldforge-losses>=0.3,<1", "another form"),
        ("coldforge-losses>=0.3,<0.5", "another form"),
        ("coldforge-losses>=0.2,<0.3", "excludes the workspace's 0.3.0; wanted >=0.3,<0.4"),
        ("coldforge-losses>=0.3.1,<0.4", "excludes the workspace's 0.3.0"),
    ],
)
def test_sibling_bounds(capsys, ready, need, finding):
    ready.add("sft", version="1.0.0", needs=(need,))
    ready.commit()
    code, printed = outcome(capsys, ready, "sft")
    assert code == 1
    assert finding in printed


@pytest.mark.parametrize(
    "need", ["coldforge-losses >= 0.3, < 0.4", "coldforge-losses[tpu]>=0.3.0,<0.4 ; python_version>'3'"]
)
def test_sibling_bounds_in_other_spellings(capsys, ready, need):
    ready.add("sft", version="1.0.0", needs=(need,))
    ready.commit()
    assert outcome(capsys, ready, "sft")[0] == 0


def test_sibling_from_1_on_is_bounded_by_the_major_version(capsys, ready):
    ready.add("chat", needs=("coldforge-sft>=1.0,<2",), kind="apps")
    ready.commit()
    assert outcome(capsys, ready, "app-chat")[0] == 0


def test_bounds_in_an_extra_count(capsys, ready):
    ready.write(
        "packages/sft/pyproject.toml",
        '[project]\nname = "coldforge-sft"\nversion = "1.0.0"\n'
        '[project.optional-dependencies]\nfast = ["coldforge-losses>=9,<10"]\n',
    )
    ready.commit()
    code, printed = outcome(capsys, ready, "sft")
    assert code == 1
    assert "excludes the workspace's 0.3.0" in printed


def test_changed_tree_is_named_once_and_nothing_is_offered_for_tagging(capsys, ready):
    ready.write("new.txt", "")
    code, printed = outcome(capsys, ready, "--all")
    assert code == 1
    assert printed.count("not clean: new.txt") == 1
    assert "git tag" not in printed


def test_completed_lock_file_is_not_a_change(capsys, ready):
    committed = 'version = 1\n\n[[package]]\nname = "jax"\nversion = "0.8.0"\nsource = { registry = "default" }\n'
    ready.write("uv.lock", committed)
    ready.commit()
    ready.write(
        "uv.lock", committed.replace("default", "https://mirror.example/simple") + 'sdist = { url = "https://x" }\n'
    )
    assert outcome(capsys, ready, "losses")[0] == 0
    ready.write("uv.lock", committed.replace("0.8.0", "0.9.0"))
    code, printed = outcome(capsys, ready, "losses")
    assert code == 1
    assert "not clean: uv.lock" in printed


def test_unknown_name_lists_those_there_are(run_tool, ready):
    done = run_tool("release", "--root", str(ready.root), "loses")
    assert done.returncode == 1
    assert "no package or app loses; there are losses, sft" in done.stderr


def test_neither_names_nor_all_is_an_error(run_tool, ready):
    done = run_tool("release", "--root", str(ready.root))
    assert done.returncode == 2
    assert "give names, or --all" in done.stderr


def test_outside_git_the_error_is_gits(run_tool, tmp_path):
    done = run_tool("release", "--root", str(tmp_path), "--all")
    assert done.returncode == 1
    assert "not a git repository" in done.stderr
