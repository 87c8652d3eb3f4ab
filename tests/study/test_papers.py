"""Published values: complete, with a source; the comparison claims nothing that does not hold."""

import numpy as np
import pandas as pd
import pytest

from dsnn_utils import search, study


def trials(dataset="cifar10", epochs=100, train_size=45_000) -> pd.DataFrame:
    """The default, a better network and a plain one, on full CIFAR-10."""
    return pd.DataFrame(
        {
            "trial": [0, 1, 2], "seed": 0, "status": "SUCCESS",
            "origin": ["default", "model", "model"], "dataset": dataset, "model": "resnet20",
            "shift_depth": [20, 6, 0], "max_shift_depth": 20, "shift_type": ["PS", "Q", None],
            "weight_bits": [5, 4, np.nan], "activation_integer_bits": 16,
            "activation_fraction_bits": 16, "epochs": epochs, "train_size": train_size,
            "val_accuracy": [0.80, 0.85, 0.91], "loss": [0.20, 0.15, 0.09],
            "energy_modelled_j_per_image": [2e-5, 1.9e-5, 2e-4],
            "emissions_gco2eq": [0.4, 0.1, 0.5],
        }
    )  # fmt: skip


def by_what(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("what")


def test_every_published_number_has_source_protocol_and_what_is_unknown():
    table = study.published()
    assert len(table) == 16 and table["what"].is_unique
    for column in ("source", "protocol", "unknown", "unit", "quantity"):
        assert (table[column].str.len() > 0).all()
    values = by_what(table)["value"]
    assert values["Default DSNN, accuracy"] == 83.0
    assert values["Pareto solution 1, emissions"] == 0.1661
    assert values["Pareto solution 2, accuracy"] == 84.67
    assert values["ResNet18, PS, 4 weight bits, accuracy"] == 94.12
    workshop = table[table["source"] == "arXiv 2404.01965"]
    assert workshop["unknown"].str.contains("default's emissions").all()


def test_nothing_is_compared_without_a_table():
    table = study.compare()
    assert (table["status"] == "not yet").all() and table["ours"].isna().all()
    assert (table["why"] == "no trials table given").all()


def test_another_data_set_is_never_comparable():
    table = study.compare(trials("digits"), {"default_test_accuracy": 0.83})
    assert not table["comparable"].any()
    assert (table["status"] == "not yet").all()
    assert (
        "data set digits, published cifar10" in by_what(table).loc["Default DSNN, accuracy", "why"]
    )


def test_validation_accuracy_is_shown_but_not_compared():
    row = by_what(study.compare(trials())).loc["Default DSNN, accuracy"]
    assert row["ours"] == pytest.approx(80) and row["ratio"] == pytest.approx(80 / 83)
    assert not row["comparable"] and "validation accuracy" in row["why"]


def test_test_accuracies_decide_reproduced_or_differs():
    results = {"default_test_accuracy": [0.822, 0.822], "chosen_test_accuracy": [0.84, 0.84]}
    table = by_what(study.compare(trials(), results))
    assert table.loc["Default DSNN, accuracy", "status"] == "reproduced"  # within one point
    assert table.loc["Pareto solution 1, accuracy", "status"] == "reproduced"
    assert table.loc["Optimised DSNNs, accuracy", "status"] == "reproduced"
    higher = by_what(study.compare(trials(), results | {"chosen_test_accuracy": [0.88, 0.88]}))
    assert higher.loc["Pareto solution 1, accuracy", "status"] == "exceeded"
    assert higher.loc["Optimised DSNNs, accuracy", "status"] == "reproduced"  # "more than 80 %"
    lower = by_what(study.compare(trials(), results | {"chosen_test_accuracy": [0.81, 0.81]}))
    assert lower.loc["Pareto solution 2, accuracy", "status"] == "differs"
    assert lower.loc["Pareto solution 2, accuracy", "ratio"] == pytest.approx(81 / 84.67)


def test_one_seed_or_a_wide_interval_decides_nothing():
    for accuracies in (0.84, [0.84], [0.79, 0.89]):
        table = by_what(study.compare(trials(), {"chosen_test_accuracy": accuracies}))
        row = table.loc["Pareto solution 1, accuracy"]
        assert row["comparable"] and row["status"] == "cannot be told"
        assert row["ours"] == pytest.approx(84)
    assert row["half_width"] == pytest.approx(12.706 * 100 * 0.1 / 2, rel=1e-3)  # t for n = 2
    above = by_what(study.compare(trials(), {"chosen_test_accuracy": [0.87, 0.871]}))
    assert above.loc["Optimised DSNNs, accuracy", "status"] == "reproduced"
    assert above.loc["Pareto solution 1, accuracy", "status"] == "exceeded"


def test_a_short_training_or_little_data_is_not_comparable():
    results = {"default_test_accuracy": [0.83] * 2, "plain_test_accuracy": [0.92] * 2}
    small = by_what(study.compare(trials(train_size=5000), results))
    assert "5000 training images" in small.loc["Default DSNN, accuracy", "why"]
    assert not small["comparable"].any()
    plain = by_what(study.compare(trials(epochs=100), results)).loc["ResNet20, float32, accuracy"]
    assert not plain["comparable"] and "100 epochs, published 200" in plain["why"]
    plain = by_what(study.compare(trials(epochs=200), results)).loc["ResNet20, float32, accuracy"]
    assert plain["status"] == "reproduced" and plain["ours"] == pytest.approx(92)


def test_gains_over_the_default():
    table = by_what(study.compare(trials()))
    loss = table.loc["Lower loss than the default, up to"]
    assert loss["ours"] == pytest.approx(25) and loss["status"] == "not yet"  # validation data
    twice = pd.concat([trials(), trials().assign(seed=1)], ignore_index=True)
    tested = by_what(study.compare(twice.assign(test_accuracy=[0.80, 0.84, 0.92] * 2)))
    loss = tested.loc["Lower loss than the default, up to"]
    assert loss["ours"] == pytest.approx(20) and loss["status"] == "reproduced"
    noisy = twice.assign(test_accuracy=[0.80, 0.83, 0.92, 0.80, 0.85, 0.92])
    row = by_what(study.compare(noisy)).loc["Lower loss than the default, up to"]
    # The error is 16 % with a half-width of 12.7, that of the default 20 % with none.
    assert row["ours"] == pytest.approx(20) and row["status"] == "cannot be told"
    assert row["half_width"] == pytest.approx(80 * 12.706 / 16, rel=1e-3)
    tested = by_what(study.compare(twice.assign(test_accuracy=[0.80, 0.88, 0.92] * 2)))
    assert tested.loc["Lower loss than the default, up to", "status"] == "exceeded"
    emissions = table.loc["Fewer emissions than the default, over"]
    assert emissions["ours"] == pytest.approx(75)
    assert emissions["status"] == "not yet" and "emissions depend on" in emissions["why"]


def test_emissions_are_shown_but_never_compared():
    row = by_what(study.compare(trials())).loc["Pareto solution 1, emissions"]
    assert row["ours"] == pytest.approx(0.1) and not row["comparable"]
    none = by_what(study.compare(trials().assign(emissions_gco2eq=np.nan)))
    assert none.loc["Pareto solution 1, emissions", "why"] == "no emissions measured"
    assert none.loc["Fewer emissions than the default, over", "why"] == "no emissions measured"


def test_networks_we_did_not_train_are_not_yet():
    table = by_what(study.compare(trials()))
    assert table.loc["Best VGG19, accuracy", "why"] == "no trial with vgg19"
    assert table.loc["ResNet20, Q, accuracy", "why"] == "no such trial in the table"


def test_full_depth_networks_compare_by_type_and_test_accuracy():
    rows = trials(epochs=200).assign(test_accuracy=[0.88, np.nan, np.nan])
    rows = pd.concat([rows, rows.assign(seed=1)], ignore_index=True)
    table = by_what(study.compare(rows))
    assert table.loc["ResNet20, PS, accuracy", "status"] == "reproduced"
    assert "ours 200 epochs" in table.loc["ResNet20, PS, accuracy", "why"]
    table = by_what(study.compare(rows, {"full_depth_ps_test_accuracy": [0.7, 0.7]}))
    assert table.loc["ResNet20, PS, accuracy", "status"] == "differs"


def test_a_tested_network_counts_with_all_its_seeds():
    first = trials().assign(test_accuracy=[0.82, 0.85, 0.91])
    second = first.assign(seed=1, val_accuracy=[0.7, 0.7, 0.7], test_accuracy=[0.84, 0.81, np.nan])
    other = first.iloc[[0]].assign(origin="default, other weights", test_accuracy=0.1, loss=0.9)
    table = by_what(study.compare(pd.concat([first, second, other], ignore_index=True)))
    assert table.loc["Default DSNN, accuracy", "ours"] == pytest.approx(83)
    assert "n = 2" in table.loc["Default DSNN, accuracy", "why"]
    assert table.loc["Pareto solution 1, accuracy", "ours"] == pytest.approx(83)
    assert table.loc["ResNet20, float32, accuracy", "ours"] == pytest.approx(91)
    untested = first.assign(test_accuracy=[np.nan, 0.85, 0.91])  # the default's error is not known
    gain = by_what(study.compare(untested)).loc["Lower loss than the default, up to"]
    assert gain["status"] == "not yet" and "validation accuracy" in gain["why"]


def test_a_table_without_the_default_still_compares():
    rows = trials().assign(origin="model")
    row = by_what(study.compare(rows)).loc["Default DSNN, accuracy"]
    assert row["why"] == "no successful published default in the table"
    with pytest.raises(ValueError, match=r"must have the columns \['model'\]"):
        study.compare(trials().drop(columns="model"))


def test_known_good_configurations_as_published_and_within_a_space():
    published = search.known_good_configurations()
    assert [c["shift_depth"] for c in published] == [6, 10, 7]
    assert published[0]["batch_size"] == 355 and published[2]["epochs"] == 47
    for c in search.known_good_configurations(max_depth=8):
        assert 1 <= c["shift_depth"] <= 8 and 32 <= c["batch_size"] <= 128
        assert 2 <= c["weight_bits"] <= 8 and 1e-3 <= c["lr"] <= 0.2
        assert "epochs" not in c and c["momentum"] is None
    with pytest.raises(ValueError, match="max_depth=0: must be an integer"):
        search.known_good_configurations(0)


def test_known_good_configurations_lie_in_the_search_space():
    space = pytest.importorskip("dsnn_utils.search.space")
    from ConfigSpace import Configuration

    for c in search.known_good_configurations(max_depth=8):
        Configuration(space.dsnn_space(8), values={k: v for k, v in c.items() if v is not None})
