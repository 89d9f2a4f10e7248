from fedhealth.runtime.deployment.outbox import MOST_KEPT, Outbox


def name(number: int) -> str:
    return f"{number:064x}"


def test_an_answer_is_there_for_who_asks_again_and_is_its_owners_alone(tmp_path):
    outbox = Outbox(tmp_path / "outbox")
    assert outbox.kept(name(1)) is None
    outbox.keep(name(1), b"sum")
    assert outbox.kept(name(1)) == b"sum"
    assert (tmp_path / "outbox" / name(1)).stat().st_mode & 0o777 == 0o600


def test_only_the_last_few_are_kept(tmp_path):
    outbox = Outbox(tmp_path)
    for number in range(10):
        outbox.keep(name(number), b"x")
    assert len(list(tmp_path.iterdir())) == MOST_KEPT
    assert outbox.kept(name(9)) == b"x"


def test_a_name_that_leads_elsewhere_leads_nowhere(tmp_path):
    outbox = Outbox(tmp_path / "outbox")
    outbox.keep("../../escaped", b"x")
    assert [path.parent.name for path in tmp_path.rglob("*") if path.is_file()] == ["outbox"]
