from phonosmith.flows.costs import grouped_costs


def document(name, seconds, cores=8, n_sites=64):
    return {
        "name": name,
        "output": {"nsites": n_sites, "run_stats": {"overall": {"elapsed_time": seconds, "cores": cores}}},
    }


def test_equal_calculations_are_one_line_and_what_is_no_calculation_none():
    found = grouped_costs(
        "phonon",
        [
            document("relax si reference", 100.0, n_sites=2),
            document("displace si reference 1/2", 10.0),
            document("displace si reference 2/2", 12.5, cores=16),
            {"name": "phonon si reference", "output": {"formula": "Si"}},
            # an ASE calculator's, in one process
            {"name": "static si reference", "output": {"nsites": 2, "output": {"elapsed_time": 3.5}}},
            {"name": "store_inputs", "output": None},
        ],
    )
    assert [(cost.name, cost.wall_seconds, cost.cores, cost.n_atoms, cost.n_calculations) for cost in found] == [
        ("relax si reference", 100.0, 8, 2, 1),
        ("displace si reference", 22.5, 16, 64, 2),
        ("static si reference", 3.5, 1, 2, 1),
    ]
