from rlseg.data.idlists import committed_ids, divide, ranked


def test_lists_have_the_published_sizes():
    sizes = {
        (name, split): len(committed_ids(name, split))
        for name in ("cvppp", "monuseg")
        for split in ("train", "valid")
    }
    assert sizes == {
        ("cvppp", "train"): 103,
        ("cvppp", "valid"): 25,
        ("monuseg", "train"): 25,
        ("monuseg", "valid"): 5,
    }


def test_our_own_lists_follow_from_seed_0():
    for name, shares in (("cvppp", (103, 25)), ("monuseg", (25, 5))):
        train, valid = committed_ids(name, "train"), committed_ids(name, "valid")
        assert not set(train) & set(valid)
        assert divide(sorted(train + valid), shares, name, seed=0) == [set(train), set(valid)]


def test_the_order_of_names_does_not_hang_on_the_others():
    names = [f"image{n}" for n in range(20)]
    order = ranked(names, "set", 3)
    assert sorted(order) == sorted(names)
    assert ranked(reversed(names[::2]), "set", 3) == [n for n in order if n in names[::2]]
    assert ranked(names, "set", 4) != order
    assert ranked(names, "other", 3) != order
    assert ranked([], "set", 3) == []


def test_shares():
    names = [f"image{n}" for n in range(10)]
    parts = divide(names, (0.6, 0.2, 0.2), "set", 0)
    assert [len(part) for part in parts] == [6, 2, 2]
    assert set().union(*parts) == set(names)
    assert [len(part) for part in divide(names[:2], (100, 1, 0), "set", 0)] == [1, 1, 0]
    assert [len(part) for part in divide(names[:1], (100, 1), "set", 0)] == [1, 0]
    assert divide([], (1, 1), "set", 0) == [set(), set()]
