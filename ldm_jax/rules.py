"""What the rules of a config are written with."""

# Kinds of cond_stage that have no "no condition" to lead away from.
WITHOUT_NULL = ("none", "segmentation", "low_res")


def require(holds, message):
    if not holds:
        raise ValueError(message)


def positive(key, value):
    require(value >= 1, f"{key} is {value}, it must be at least 1")


def levels(section, name, key):
    mult, values = section.mult, section[key]
    require(
        len(values) == len(mult),
        f"{name}.{key} {values} must have one entry for each level of "
        f"{name}.mult {mult}",
    )


def groups(section, name):
    for factor in section.mult:
        width = section.channels * factor
        require(
            width % section.groups == 0,
            f"{name}.channels {section.channels} times {factor} of {name}.mult must "
            f"be a multiple of {name}.groups {section.groups}",
        )


def factor(section):
    """How many times smaller the coarsest level is than the finest."""
    return 2 ** (len(section.mult) - 1)
