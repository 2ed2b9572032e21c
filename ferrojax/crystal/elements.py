"""Chemical symbols by atomic number, so that the core needs no structure library."""

from ferrojax.errors import InputError

SYMBOLS = tuple(
    (
        "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
        "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb "
        "Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
    ).split()
)


def atomic_number(symbol: str) -> int:
    """Atomic number of a chemical symbol."""
    if symbol not in SYMBOLS[1:]:
        raise InputError("element", symbol, "unknown chemical symbol", "use symbols such as 'Ba', 'Ti', 'O'")
    return SYMBOLS.index(symbol)
