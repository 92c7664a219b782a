"""Which PAW data set stands for which element unless a protocol says otherwise.

Names only. The choice is that of atomate2 0.1.5 for PBE_54, written down here so that an upgrade of a library cannot
change the potential energy surface of a campaign.
"""

from __future__ import annotations

# fmt: off
PBE_54_SYMBOLS: dict[str, str] = {
    "Ac": "Ac", "Ag": "Ag", "Al": "Al", "Am": "Am", "Ar": "Ar", "As": "As", "At": "At", "Au": "Au", "B": "B",
    "Ba": "Ba_sv", "Be": "Be", "Bi": "Bi_d", "Br": "Br", "C": "C", "Ca": "Ca_sv", "Cd": "Cd", "Ce": "Ce", "Cf": "Cf",
    "Cl": "Cl", "Cm": "Cm", "Co": "Co", "Cr": "Cr_pv", "Cs": "Cs_sv", "Cu": "Cu", "Dy": "Dy_3", "Er": "Er_3",
    "Eu": "Eu_2", "F": "F", "Fe": "Fe", "Fr": "Fr_sv", "Ga": "Ga_d", "Gd": "Gd_3", "Ge": "Ge_d", "H": "H", "He": "He",
    "Hf": "Hf_pv", "Hg": "Hg", "Ho": "Ho_3", "I": "I", "In": "In_d", "Ir": "Ir", "K": "K_sv", "Kr": "Kr", "La": "La",
    "Li": "Li_sv", "Lu": "Lu_3", "Mg": "Mg", "Mn": "Mn_pv", "Mo": "Mo_sv", "N": "N", "Na": "Na_pv", "Nb": "Nb_sv",
    "Nd": "Nd_3", "Ne": "Ne", "Ni": "Ni", "Np": "Np", "O": "O", "Os": "Os", "P": "P", "Pa": "Pa", "Pb": "Pb_d",
    "Pd": "Pd", "Pm": "Pm_3", "Po": "Po_d", "Pr": "Pr_3", "Pt": "Pt", "Pu": "Pu", "Ra": "Ra_sv", "Rb": "Rb_sv",
    "Re": "Re", "Rh": "Rh_pv", "Rn": "Rn", "Ru": "Ru_pv", "S": "S", "Sb": "Sb", "Sc": "Sc_sv", "Se": "Se", "Si": "Si",
    "Sm": "Sm_3", "Sn": "Sn_d", "Sr": "Sr_sv", "Ta": "Ta_pv", "Tb": "Tb_3", "Tc": "Tc_pv", "Te": "Te", "Th": "Th",
    "Ti": "Ti_sv", "Tl": "Tl_d", "Tm": "Tm_3", "U": "U", "V": "V_sv", "W": "W_sv", "Xe": "Xe", "Y": "Y_sv",
    "Yb": "Yb_3", "Zn": "Zn", "Zr": "Zr_sv",
}
"""Element to POTCAR symbol."""
# fmt: on
