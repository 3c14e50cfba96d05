"""Real tables that vega-datasets and bokeh-sampledata ship inside their wheels, reduced to labels, columns and
numbers.

A table belongs to one split, by name, fixed here: nothing that is drawn from a test table is ever drawn in train.
Tables under CC-BY-SA (bokeh's browsers) and tables that need the network are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finecap.corpus.drawing.raster import package_file

if TYPE_CHECKING:
    import pandas as pd

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TABLE_SPLITS = {
    "train": (
        "auto-mpg",
        "barley",
        "cars",
        "driving",
        "elements",
        "emissions",
        "gapminder",
        "iowa-electricity",
        "lincoln-weather",
        "penguins",
        "seattle-weather",
        "titanic",
        "unemployment",
        "us-employment",
    ),
    "validation": ("crimea", "stocks"),
    "test": ("degrees", "iris", "marriages", "olympics", "sprint", "wheat"),
}


@dataclass(frozen=True)
class Table:
    """Numbers with names. `rows`: row labels; `columns`: column name to one number per row, already rounded as they
    are drawn; `ordered`: rows follow each other in time, so that a line may join them; `whole`: the rows of a column
    are parts of a whole.
    """

    name: str
    title: str
    row_name: str
    value_name: str
    rows: tuple[str, ...]
    columns: dict[str, tuple[float, ...]]
    license: str
    ordered: bool = False
    whole: bool = False


def load_table(name: str) -> Table:
    """One table by its name in `TABLE_SPLITS`.

    Raises:
        ValueError: for a name that is not there.
    """
    if name not in _READERS:
        raise ValueError(f"there is no table {name!r}; expected one of {', '.join(sorted(_READERS))}")
    return _load(name)


@functools.cache
def _load(name: str) -> Table:
    return _READERS[name]()


def _bokeh(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(package_file("bokeh_sampledata", f"_data/{name}"), skipinitialspace=True)


def _vega(name: str) -> pd.DataFrame:
    import pandas as pd

    path = package_file("vega_datasets", f"_data/{name}")
    return pd.read_csv(path) if name.endswith(".csv") else pd.read_json(path)


def _table(
    name: str,
    title: str,
    row_name: str,
    value_name: str,
    frame: pd.DataFrame,
    license: str,
    digits: int = 1,
    ordered: bool = False,
    whole: bool = False,
) -> Table:
    """A table from a frame whose index holds the row labels; rows with missing numbers are dropped."""
    frame = frame.dropna().round(digits)
    columns = {str(column): tuple(float(value) for value in frame[column]) for column in frame.columns}
    rows = tuple(str(label) for label in frame.index)
    return Table(name, title, row_name, value_name, rows, columns, license, ordered, whole)


def _auto_mpg() -> Table:
    frame = _bokeh("auto-mpg2.csv").groupby("manufacturer")[["cty", "hwy"]].mean()
    frame.columns = ["city", "highway"]
    return _table("auto-mpg", "Fuel economy", "Maker", "Miles per gallon", frame, "public domain (US EPA)")


def _barley() -> Table:
    frame = _vega("barley.json").groupby(["site", "year"])["yield"].mean().unstack()
    return _table("barley", "Barley yield", "Site", "Bushels per acre", frame, "BSD-3-Clause (vega-datasets)")


def _cars() -> Table:
    frame = _vega("cars.json")
    frame["year"] = frame["Year"].astype(str).str[:4]
    table = frame.pivot_table(index="year", columns="Origin", values="Horsepower", aggfunc="mean")
    return _table("cars", "Engine power", "Year", "Horsepower", table, "BSD-3-Clause (vega-datasets)", 0, ordered=True)


def _driving() -> Table:
    frame = _vega("driving.json").set_index("year")[["gas"]].rename(columns={"gas": "gas price"})
    return _table("driving", "Price of gas", "Year", "Dollars", frame, "BSD-3-Clause (vega-datasets)", 2, ordered=True)


def _elements() -> Table:
    frame = _bokeh("elements.csv")
    frame = frame[frame["metal"].isin(["metal", "transition metal", "alkaline earth metal"])].set_index("name")
    frame = frame[["melting point", "boiling point"]].astype(float).head(40)
    return _table("elements", "Metals", "Element", "Kelvin", frame, "public domain", 0)


def _emissions() -> Table:
    frame = _bokeh("emissions.csv.gz")
    names = ["France", "Germany", "Italy", "Japan", "Poland", "Spain", "Sweden", "Mexico"]
    frame = frame[frame["country"].isin(names) & (frame["year"] >= 1980)]
    frame["year"] = frame["year"].astype(int)
    table = frame.pivot_table(index="year", columns="country", values="emissions")
    return _table("emissions", "CO2 emissions", "Year", "Tons per person", table, "public domain", 1, ordered=True)


def _gapminder() -> Table:
    frame = _bokeh("gapminder.csv.gz")
    names = ["Brazil", "Chile", "China", "Egypt", "India", "Kenya", "Nepal", "Norway", "Peru", "Turkey", "Vietnam"]
    frame = frame[frame["country"].isin(names) & frame["year"].isin([1970, 1980, 1990, 2000, 2010])]
    table = frame.pivot_table(index="country", columns="year", values="life_expectancy")
    return _table("gapminder", "Life expectancy", "Country", "Years", table, "CC-BY-2.0 (gapminder.org)")


def _iowa() -> Table:
    frame = _vega("iowa-electricity.csv")
    frame["year"] = frame["year"].astype(str).str[:4]
    table = frame.pivot_table(index="year", columns="source", values="net_generation") / 1000
    return _table(
        "iowa-electricity",
        "Electricity in Iowa",
        "Year",
        "Terawatt hours",
        table,
        "public domain (US EIA)",
        1,
        ordered=True,
    )


def _lincoln() -> Table:
    return _monthly(
        "lincoln-weather",
        "Weather in Lincoln",
        _bokeh("lincoln_weather.csv"),
        "DATE",
        {"TMAX": "high", "TMIN": "low"},
        "Degrees F",
        "public domain",
    )


def _seattle() -> Table:
    columns = {"temp_max": "high", "temp_min": "low"}
    return _monthly(
        "seattle-weather",
        "Weather in Seattle",
        _vega("seattle-weather.csv"),
        "date",
        columns,
        "Degrees C",
        "public domain (NOAA)",
    )


def _monthly(
    name: str, title: str, frame: pd.DataFrame, date: str, columns: dict[str, str], unit: str, license: str
) -> Table:
    """Monthly means of daily columns."""
    import pandas as pd

    table = frame.groupby(pd.to_datetime(frame[date]).dt.month)[list(columns)].mean()
    table.index = [MONTHS[month - 1] for month in table.index]
    return _table(name, title, "Month", unit, table.rename(columns=columns), license, 1, ordered=True)


def _penguins() -> Table:
    frame = _bokeh("penguins.csv").dropna()
    frame["group"] = frame["species"] + " " + frame["sex"].str.lower()
    columns = {"bill_length_mm": "bill length", "bill_depth_mm": "bill depth"}
    table = frame.groupby("group")[list(columns)].mean().rename(columns=columns)
    return _table("penguins", "Penguins", "Group", "Millimeters", table, "CC0-1.0")


def _titanic() -> Table:
    import pandas as pd

    frame = _bokeh("titanic_all.csv")
    table = pd.crosstab(frame["class"] + " " + frame["sex"], frame["survived"])
    table.columns = ["died", "survived"]
    return _table("titanic", "Titanic passengers", "Group", "People", table, "public domain", 0, whole=True)


def _unemployment() -> Table:
    frame = _bokeh("unemployment1948.csv").set_index("Year")[list(MONTHS)].dropna()
    return _table(
        "unemployment",
        "Unemployment in the US",
        "Month",
        "Percent",
        frame.T,
        "public domain (US BLS)",
        1,
        ordered=True,
    )


def _us_employment() -> Table:
    frame = _vega("us-employment.csv")
    frame["year"] = frame["month"].str[:4]
    names = ["construction", "manufacturing", "information", "government"]
    return _table(
        "us-employment",
        "Jobs in the US",
        "Year",
        "Million jobs",
        frame.groupby("year")[names].mean() / 1000,
        "public domain (US BLS)",
        2,
        ordered=True,
    )


def _crimea() -> Table:
    frame = _vega("crimea.json")
    frame.index = frame["date"].astype(str).str[:7]
    return _table(
        "crimea",
        "Losses in the Crimean War",
        "Month",
        "Deaths",
        frame[["wounds", "other", "disease"]],
        "BSD-3-Clause (vega-datasets)",
        0,
        ordered=True,
    )


def _stocks() -> Table:
    frame = _vega("stocks.csv")
    frame["year"] = frame["date"].str[-4:]
    table = frame.pivot_table(index="year", columns="symbol", values="price")
    return _table("stocks", "Stock prices", "Year", "Dollars", table, "BSD-3-Clause (vega-datasets)", 1, ordered=True)


def _degrees() -> Table:
    frame = _bokeh("percent-bachelors-degrees-women-usa.csv").set_index("Year")
    names = ["Biology", "Business", "Education", "Engineering", "English", "Psychology"]
    return _table("degrees", "Degrees earned by women", "Year", "Percent", frame[names], "CC0-1.0", 1, ordered=True)


def _iris() -> Table:
    frame = _bokeh("iris.csv")
    frame.columns = [str(column).replace("_", " ") for column in frame.columns]
    return _table("iris", "Iris flowers", "Species", "Centimeters", frame.groupby("species").mean(), "CC0-1.0", 2)


def _marriages() -> Table:
    frame = _bokeh("us_marriages_divorces.csv").set_index("Year")[["Marriages_per_1000", "Divorces_per_1000"]]
    frame.columns = ["marriages", "divorces"]
    return _table(
        "marriages",
        "Marriages and divorces",
        "Year",
        "Per 1000 people",
        frame,
        "public domain (US CDC)",
        1,
        ordered=True,
    )


def _olympics() -> Table:
    import json

    import pandas as pd

    data = json.loads(package_file("bokeh_sampledata", "_data/olympics2014.json").read_text())["data"]
    kinds = ("gold", "silver", "bronze")
    medals = {
        item["name"]: {kind: item["medals"][kind] for kind in kinds} for item in data if item["medals"]["total"] > 3
    }
    return _table(
        "olympics",
        "Olympic medals 2014",
        "Country",
        "Medals",
        pd.DataFrame(medals).T,
        "BSD-3-Clause (bokeh)",
        0,
        whole=True,
    )


def _sprint() -> Table:
    frame = _bokeh("sprint.csv")
    table = frame[frame["Medal"] == "GOLD"].set_index("Year")[["Time"]].sort_index().rename(columns={"Time": "winner"})
    return _table("sprint", "100 m sprint", "Year", "Seconds", table, "BSD-3-Clause (bokeh)", 2, ordered=True)


def _wheat() -> Table:
    frame = _vega("wheat.json").set_index("year")[["wheat"]]
    return _table(
        "wheat", "Price of wheat", "Year", "Shillings", frame, "BSD-3-Clause (vega-datasets)", 1, ordered=True
    )


_READERS: dict[str, Callable[[], Table]] = {
    "auto-mpg": _auto_mpg,
    "barley": _barley,
    "cars": _cars,
    "crimea": _crimea,
    "degrees": _degrees,
    "driving": _driving,
    "elements": _elements,
    "emissions": _emissions,
    "gapminder": _gapminder,
    "iowa-electricity": _iowa,
    "iris": _iris,
    "lincoln-weather": _lincoln,
    "marriages": _marriages,
    "olympics": _olympics,
    "penguins": _penguins,
    "seattle-weather": _seattle,
    "sprint": _sprint,
    "stocks": _stocks,
    "titanic": _titanic,
    "unemployment": _unemployment,
    "us-employment": _us_employment,
    "wheat": _wheat,
}
