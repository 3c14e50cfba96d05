"""A package is fetched once and checked by its hash; what is cut off, changed or gone leaves nothing behind."""

import shutil
import subprocess

import pytest

from finevit_eval.offline.debian import fetch, read_files

FILES = {
    "/usr/share/a/one.txt": b"one",
    "/usr/share/a/deep/two.PNG": b"two",
    "/usr/share/a/sound.ogg": b"?",
    "/usr/share/b.txt": b"?",
    "/../../usr/share/a/three.txt": b"?",
}


@pytest.fixture
def package(publish):
    return publish(FILES)


@pytest.fixture
def published(package, tmp_path):
    """The package where it is fetched from."""
    return tmp_path / "pool" / "s" / package.name


def test_files_of_a_package_are_those_below_the_folder_with_a_wanted_ending(package):
    found = read_files(fetch(package), "/usr/share/a", {".txt", ".png"})
    assert found == {"deep/two.PNG": b"two", "one.txt": b"one"}
    assert list(found) == sorted(found)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
@pytest.mark.parametrize("packed", ["gzip", "xz", "none"])
def test_a_package_by_dpkg_is_read(packed, tmp_path):
    (tmp_path / "root/DEBIAN").mkdir(parents=True)
    (tmp_path / "root/DEBIAN/control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a\n"
    )
    (tmp_path / "root/usr").mkdir()
    (tmp_path / "root/usr/one.txt").write_text("one")
    command = ["dpkg-deb", f"-Z{packed}", "-b", str(tmp_path / "root"), str(tmp_path / "a.deb")]
    subprocess.run(command, check=True, capture_output=True)
    assert read_files(tmp_path / "a.deb", "/usr", {".txt"}) == {"one.txt": b"one"}


def test_what_is_in_the_cache_is_not_fetched_again(package, published):
    path = fetch(package)
    published.unlink()
    assert fetch(package) == path


def test_a_package_that_was_put_into_the_cache_by_hand_is_taken(package, published):
    package.path.parent.mkdir()
    published.rename(package.path)
    assert fetch(package) == package.path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-7], "ended 7 bytes early"),
        (lambda content: content + b"more", "has more than"),
        (lambda content: content[:-1] + b"?", "its SHA-256 is"),
    ],
)
def test_what_is_not_the_package_is_refused_and_not_kept(package, published, change, reason):
    published.write_bytes(change(published.read_bytes()))
    with pytest.raises(ValueError, match=reason):
        fetch(package)
    assert not list(package.path.parent.iterdir())


def test_without_a_network_one_error_names_file_address_and_place(package, published):
    published.unlink()
    with pytest.raises(ValueError, match="cannot be fetched") as caught:
        fetch(package)
    assert all(part in str(caught.value) for part in (package.name, package.urls[0], str(package.path)))


def test_a_damaged_copy_in_the_cache_is_refused(package):
    path = fetch(package)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="remove it and run again"):
        fetch(package)


def test_what_is_no_package_is_refused(package, tmp_path):
    whole = fetch(package).read_bytes()
    for name, content in {"empty": b"", "text": b"no package", "headless": whole[:72]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="no Debian package"):
            read_files(tmp_path / name, "/", {".txt"})
