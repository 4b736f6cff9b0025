"""Make up people in the columns of a census."""

import numpy as np

WORK = ("Private", "Self-emp-not-inc", "Self-emp-inc", "Local-gov", "State-gov", "Federal-gov", "?")
OCCUPATIONS = {  # what it adds to the income, and the years of education it is found at
    "Other-service": (-1.0, 8.5),
    "Handlers-cleaners": (-0.8, 8.5),
    "Machine-op-inspct": (-0.4, 9.0),
    "Farming-fishing": (-0.7, 8.5),
    "Transport-moving": (-0.1, 9.0),
    "Craft-repair": (0.1, 9.5),
    "Adm-clerical": (-0.2, 10.5),
    "Tech-support": (0.4, 11.5),
    "Protective-serv": (0.3, 10.5),
    "Sales": (0.3, 11.0),
    "Exec-managerial": (0.9, 12.0),
    "Prof-specialty": (0.6, 13.5),
}
RACES = ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other")
COUNTRIES = ("United-States", "Mexico", "Philippines", "Germany", "Canada", "India", "?")


def write_people(count: int, generator: np.random.Generator) -> list[tuple[str, ...]]:
    """Make up people, each a row of 15 texts in the order of the real files.

    Age decides most about marriage; years of education, hours, occupation, age and being married
    about income; so the two tasks have columns in common, and columns of their own. Race and country
    decide nothing here.
    """
    age = np.clip(17 + generator.gamma(2.4, 9.0, count), 17, 90).astype(int)
    sex = generator.random(count) < 0.33
    years = np.clip(generator.normal(10.1, 2.5, count).round(), 1, 16).astype(int)
    names, gains, typical = zip(*((n, *both) for n, both in OCCUPATIONS.items()), strict=True)
    fit = -np.abs(years[:, None] - np.array(typical)) / 2
    occupation = (fit + generator.gumbel(size=fit.shape)).argmax(axis=1)
    work = generator.choice(len(WORK), count, p=(0.7, 0.08, 0.03, 0.06, 0.04, 0.03, 0.06))

    settled = 0.16 * (age - 28) + 0.3 * (work == 2) - 0.08 * (years - 10) - 0.5 * sex
    single = generator.logistic(size=count) > settled
    hours = 40 + generator.normal(0, 9, count) + 4 * (work == 1) - 5 * sex
    hours = np.where(generator.random(count) < 0.45, 40, np.clip(hours, 1, 99)).astype(int)
    wealth = -2.9 + 0.38 * (years - 10) + 0.05 * (hours - 40) + np.array(gains)[occupation]
    wealth += 0.05 * np.minimum(age - 30, 25) + 1.5 * ~single + 0.4 * (work == 2)
    rich = generator.logistic(size=count) < 1.3 * wealth
    luck = generator.random(count)
    gain = np.where(luck < 0.04 + 0.14 * rich, generator.choice([3103, 7298, 15024], count), 0)
    gain = np.where(~rich & (gain > 4000), 2174, gain)
    loss = np.where(luck > 0.97 - 0.06 * rich, generator.choice([1602, 1887, 1977], count), 0)
    race = generator.choice(RACES, count, p=(0.8, 0.1, 0.05, 0.02, 0.03))
    country = generator.choice(COUNTRIES, count, p=(0.9, 0.02, 0.02, 0.01, 0.01, 0.02, 0.02))

    rows: list[tuple[str, ...]] = []
    for i in range(count):
        unknown = work[i] == len(WORK) - 1
        rows.append(
            (
                str(age[i]),
                WORK[work[i]],
                "100000",
                "made up",
                str(years[i]),
                "Never-married" if single[i] else "Married-civ-spouse",
                "?" if unknown else names[occupation[i]],
                "made up",
                str(race[i]),
                "Female" if sex[i] else "Male",
                str(gain[i]),
                str(loss[i]),
                str(hours[i]),
                str(country[i]),
                ">50K" if rich[i] else "<=50K",
            )
        )
    return rows
