"""Notes and keys are those of C2SP signed-note, byte for byte; nothing else is believed."""

import base64

import pytest

from calotype.projections.seal import signed_note, verify_proof

SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NOTE = (
    TEXT + "\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
"""The example of Go's package golang.org/x/mod/sumdb/note, which the form comes from."""

EXAMPLE_VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi"
    "2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
"""The example of the C2SP specification."""


def test_a_note_is_signed_as_in_the_published_example() -> None:
    signer = signed_note.read_signer(SECRET)
    assert signer.sign(TEXT) == NOTE
    assert signer.secret() == SECRET
    assert signer.verifier.text == VERIFIER
    assert SECRET[-20:] not in repr(signer)


@pytest.mark.parametrize(
    ("verifier", "note"), [(VERIFIER, NOTE), (EXAMPLE_VERIFIER, EXAMPLE_NOTE)], ids=["go", "c2sp"]
)
def test_the_published_examples_are_believed(verifier: str, note: str) -> None:
    read = verify_proof.read_verifier(verifier)
    assert read.text == verifier
    assert verify_proof.open_note(note, [read]) == note.partition("\n\n")[0] + "\n"


def test_a_strangers_signature_beside_ours_is_passed_over() -> None:
    stranger = signed_note.new_signer("witness.example").sign(TEXT).rpartition("\n\n")[2]
    ours = verify_proof.read_verifier(VERIFIER)
    assert verify_proof.open_note(NOTE + stranger, [ours]) == TEXT
    with pytest.raises(verify_proof.BadNote, match="no known key"):
        verify_proof.open_note(f"{TEXT}\n{stranger}", [ours])


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        TEXT + "\n",
        NOTE[:-1],
        NOTE.replace("answer", "answers"),
        NOTE.replace("x08go/ZJ", "x08go/ZK"),
        NOTE.replace("\u2014 ", "- "),
        NOTE.replace(" x08g", " ?"),
        NOTE.replace("PeterNeumann x", "Peter Neumann x"),
    ],
)
def test_a_note_that_was_touched_is_refused(note: str) -> None:
    with pytest.raises(verify_proof.BadNote):
        verify_proof.open_note(note, [verify_proof.read_verifier(VERIFIER)])


def test_a_checkpoint_comes_back_from_its_note() -> None:
    signer = signed_note.new_signer("example.com/calotype")
    checkpoint = verify_proof.Checkpoint(signer.name, 20852163, bytes(range(32)))
    note = signer.sign(checkpoint.text)
    assert verify_proof.open_checkpoint(note, [signer.verifier]) == checkpoint


def test_a_checkpoint_of_another_log_is_refused_although_a_known_key_signed_it() -> None:
    signer = signed_note.new_signer("example.com/calotype")
    note = signer.sign(verify_proof.Checkpoint("example.com/other", 1, bytes(32)).text)
    with pytest.raises(verify_proof.BadNote, match="not ours"):
        verify_proof.open_checkpoint(note, [signer.verifier])


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "log\n1\n",
        f"log\n01\n{ROOT}\n",
        f"log\n-1\n{ROOT}\n",
        f"log\n99999999999999999999\n{ROOT}\n",
        f"log\n1\n{ROOT[:-4]}\n",
        f"log\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"log\n1\n{ROOT}\n\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(verify_proof.BadNote):
        verify_proof.read_checkpoint(text)


@pytest.mark.parametrize(
    "text", ["", "PRIVATE+KEY+x", SECRET.replace("c74f", "c74e"), SECRET[:-8], VERIFIER]
)
def test_a_malformed_signing_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(verify_proof.BadNote) as refused:
        signed_note.read_signer(text)
    assert SECRET[-20:-8] not in str(refused.value)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "line\nbreak"])
def test_a_key_cannot_have_a_name_that_breaks_the_form(name: str) -> None:
    with pytest.raises(verify_proof.BadNote):
        signed_note.new_signer(name)
