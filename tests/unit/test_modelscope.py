"""ModelScope's file API, from a server on loopback: whole, cut, refused, absent, offline."""

from __future__ import annotations

import shutil
import socket

import pytest
from pydantic import SecretStr

from shared.errors import ModelError, ModelUnavailable
from shared.models import ModelEntry
from shared.settings import Settings
from tests.servers.modelscope import fake_modelscope
from worker.loading import modelscope_files
from worker.loading.locate import locate, present

VAE = "vae/diffusion_pytorch_model.safetensors"


def entry(source="modelscope:farm/tiny", **fields):
    return ModelEntry(id="m", source=source, **fields)


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(modelscope_files, "PAUSE_S", 0.001)


@pytest.fixture
def service(model):
    with fake_modelscope(model) as service:
        yield service


@pytest.fixture
def settings(service, tmp_path):
    return Settings(model_cache_dir=tmp_path / "cache", modelscope_endpoint=service.url)


def test_what_an_entry_reads_is_fetched_and_nothing_else(service, settings, model):
    (model / "sd3.5_medium.safetensors").write_text("the same again, as a single file")

    folder = locate(entry(), settings)

    read = {f.relative_to(model).as_posix() for f in model.rglob("*") if f.is_file()}
    assert set(service.asked) == read - {"sd3.5_medium.safetensors", "README.txt"}
    assert all(
        (folder / name).read_bytes() == (model / name).read_bytes() for name in service.asked
    )


def test_t5_is_not_fetched_for_an_entry_without_it(service, settings):
    locate(entry(t5="off"), settings)

    assert not any("_3/" in name for name in service.asked)


def test_after_the_download_no_network_is_needed(service, settings):
    folder = locate(entry(), settings)
    offline = settings.model_copy(update={"modelscope_endpoint": "http://127.0.0.1:1"})

    assert locate(entry(), offline) == folder == present(entry(), offline)


def test_what_is_there_is_not_fetched_again(service, settings):
    folder = locate(entry(), settings)
    (folder / VAE).unlink()
    service.asked.clear()

    locate(entry(), settings)

    assert service.asked == [VAE]


def test_a_file_that_was_damaged_on_disk_is_fetched_again(service, settings, model):
    folder = locate(entry(), settings)
    (folder / VAE).write_bytes((model / VAE).read_bytes()[:1000])

    locate(entry(), settings)

    assert (folder / VAE).read_bytes() == (model / VAE).read_bytes()


def test_a_download_that_is_cut_goes_on_where_it_ended(service, settings, model):
    service.cut = {VAE: 10_000}

    folder = locate(entry(), settings)

    assert service.ranges == ["bytes=10000-"]
    assert (folder / VAE).read_bytes() == (model / VAE).read_bytes()
    assert not list(folder.rglob("*.incomplete"))


def test_a_download_that_was_given_up_goes_on_in_the_next_process(service, settings, monkeypatch):
    monkeypatch.setattr(modelscope_files, "ATTEMPTS", 1)
    service.cut = {VAE: 10_000}
    with pytest.raises(ModelUnavailable, match=r"broke off \d times: try again"):
        locate(entry(), settings)

    told = []
    locate(entry(), settings, progress=lambda *b: told.append(b))

    assert service.ranges == ["bytes=10000-"]
    done_bytes, total_bytes = told[-1]
    assert done_bytes == total_bytes > 2_000_000


def test_a_server_that_fails_for_a_moment_is_asked_again(service, settings):
    service.failures = 3

    assert (locate(entry(), settings) / VAE).is_file()


def test_a_server_that_goes_on_failing_is_one_sentence(service, settings):
    service.failures = 100

    with pytest.raises(ModelUnavailable, match="it answers 503"):
        locate(entry(), settings)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_setting_and_never_the_token(service, settings, status):
    service.status = status
    settings = settings.model_copy(update={"modelscope_token": SecretStr("ms-secret")})

    with pytest.raises(ModelUnavailable, match="FARM_MODELSCOPE_TOKEN") as refusal:
        locate(entry(), settings)

    assert service.tokens == {"Bearer ms-secret"}
    assert "ms-secret" not in str(refusal.value)


def test_a_token_does_not_follow_a_file_to_another_host(service, settings, model):
    settings = settings.model_copy(update={"modelscope_token": SecretStr("ms-secret")})

    with fake_modelscope(model) as storage:
        service.elsewhere = storage.url
        locate(entry(), settings)

    assert service.tokens == {"Bearer ms-secret"}
    assert (storage.tokens, bool(storage.asked)) == ({None}, True)


def test_no_token_is_sent_where_none_is_set(service, settings):
    locate(entry(), settings)

    assert service.tokens == {None}


def test_a_repository_that_is_not_there_is_named(settings):
    with pytest.raises(ModelUnavailable, match=r"there is no http.*/models/farm/none"):
        locate(entry("modelscope:farm/none"), settings)


def test_a_revision_that_is_not_there_is_named(settings):
    with pytest.raises(ModelUnavailable, match="no revision 'v9'"):
        locate(entry(revision="v9"), settings)


def test_a_file_that_arrives_as_another_is_refused_and_not_kept(service, settings):
    service.rotten = {VAE}

    with pytest.raises(ModelUnavailable, match=f"{VAE} arrived as another file"):
        locate(entry(), settings)
    service.rotten = set()

    assert (locate(entry(), settings) / VAE).is_file()


@pytest.mark.parametrize("name", ["vae/../../../up.json", "/vae/etc.json"])
def test_a_name_that_leads_out_of_the_folder_is_refused(service, settings, name):
    service.extra = [{"Path": name, "Type": "blob", "Size": 1, "Sha256": ""}]

    with pytest.raises(ModelUnavailable, match="it lists a file"):
        locate(entry(), settings)

    assert not settings.cache_dir.exists() or not list(settings.cache_dir.rglob("*.json"))


def test_no_network_is_said_in_these_words(settings):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://me:hunter2@127.0.0.1:{taken.getsockname()[1]}"
        nobody = settings.model_copy(update={"modelscope_endpoint": url})
        with pytest.raises(ModelUnavailable, match="no network") as failure:
            locate(entry(), nobody)

    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../up", "a/b c", ""])
def test_a_name_that_is_no_repository_is_a_fault_of_the_entry(settings, repo):
    with pytest.raises(ModelError, match="no repository name"):
        locate(entry(f"modelscope:{repo}"), settings)
