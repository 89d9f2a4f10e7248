"""A realistic report, made by a seeded draw: patients at risk, a model that sees part of it, and its curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fedhealth.report.run_groups import Run

if TYPE_CHECKING:
    from collections.abc import Callable

TITLES = (
    ("riverside", "Riverside University Hospital", "Large teaching hospital, 2,100 beds"),
    ("st-brigid", "St Brigid\N{RIGHT SINGLE QUOTATION MARK}s Geriatric Hospital", "Geriatric case mix"),
    ("northfell", "Northfell Community Hospital", "Small and rural; seldom measures lactate"),
    ("lakeview", "Lakeview Regional Medical Centre", "Reports creatinine in \N{MICRO SIGN}mol/L"),
    ("harbour", "Harbour District General", "Older analyser, sodium reads high"),
    ("santa-clara", "Hospital Santa Clara", "Surgical case mix, low prevalence"),
    ("eastgate", "Eastgate Trauma and Emergency Centre", "Emergency admissions, high missingness"),
    ("kronborg", "Kronborg Sygehus", "Consent rate 0.62"),
)
FEATURES = (
    "Age (years)", "Systolic pressure (mmHg)", "Heart rate (1/min)", "Respiratory rate (1/min)", "Lactate (mmol/L)",
    "Creatinine (mg/dL)", "Bilirubin (mg/dL)", "White cells (10\N{SUPERSCRIPT NINE}/L)", "Sodium (mmol/L)", "Albumin (g/dL)",
)  # fmt: skip
MEASURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece": "Expected calibration error",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "sensitivity_at_specificity": "Sensitivity at 90 % specificity",
    "net_benefit": "Net benefit at threshold 0.10",
    "accuracy": "Accuracy",
}
METHODS = {
    "auroc": "DeLong, from histogram counts",
    "brier": "normal approximation of a mean",
    "log_loss": "normal approximation of a mean",
    "calibration_slope": "Wald",
    "calibration_intercept": "Wald",
    "sensitivity_at_specificity": "Wilson",
    "accuracy": "Wilson",
    "auprc": "logit transform",
}


def not_estimable(note: str) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "method": "", "note": note}


def around(value: float, half: float, method: str = "DeLong, from histogram counts") -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "method": method, "note": ""}


def auroc(y: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Mann-Whitney, with the interval of Hanley and McNeil."""
    n1, n0 = int(y.sum()), int((1 - y).sum())
    if not n1 or not n0:
        return not_estimable("one class only among the test patients")
    ranks = score.argsort().argsort() + 1.0
    a = float((ranks[y == 1].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    spread = a * (1 - a) + (n1 - 1) * (a / (2 - a) - a * a) + (n0 - 1) * (2 * a * a / (1 + a) - a * a)
    return around(a, 1.96 * float(np.sqrt(spread / (n1 * n0))))


def curves(y: np.ndarray, risk: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-risk)
    hits, alarms = np.cumsum(y[order]), np.cumsum(1 - y[order])
    every = np.unique(np.linspace(0, len(y) - 1, 200).astype(int))
    x, tpr = alarms[every] / alarms[-1], hits[every] / hits[-1]
    bins = np.array_split(np.argsort(risk), 10)
    observed = np.array([y[b].mean() for b in bins])
    half = np.array([1.96 * np.sqrt(max(p * (1 - p), 0.002) / len(b)) for p, b in zip(observed, bins, strict=True)])
    cut = np.arange(0.01, 0.61, 0.01)
    odds = cut / (1 - cut)
    benefit = [
        ((risk >= t) & (y == 1)).mean() - ((risk >= t) & (y == 0)).mean() * o for t, o in zip(cut, odds, strict=True)
    ]
    return {
        "roc": {"x": [0.0, *x.tolist()], "y": [0.0, *tpr.tolist()]},
        "pr": {"x": tpr.tolist(), "y": (hits / np.arange(1, len(y) + 1))[every].tolist()},
        "reliability": {
            "predicted": [float(risk[b].mean()) for b in bins],
            "observed": observed.tolist(),
            "low": np.clip(observed - half, 0, 1).tolist(),
            "high": np.clip(observed + half, 0, 1).tolist(),
            "n": [len(b) for b in bins],
        },
        "decision": {
            "threshold": cut.tolist(),
            "model": [float(b) for b in benefit],
            "all": (y.mean() - (1 - y.mean()) * odds).tolist(),
            "none": [0.0] * len(cut),
        },
    }


def sample_report(*, sites: int = 8, seed: int = 7, baselines: bool = True, failures: bool = True) -> dict[str, Any]:
    """A whole report of a made-up study; the numbers hang together because patients are drawn behind them."""
    rng = np.random.default_rng(seed)
    noise = {"federated": 0.55, "oracle": 0.0, "pooled": 0.5, "local": 1.3}
    kept = tuple(noise) if baselines else ("federated",)
    rows, all_y, all_risk = [], [], {who: [] for who in kept}
    for k in range(sites):
        name, title, description = TITLES[k] if k < len(TITLES) else (f"hospital-{k + 1}", f"Hospital {k + 1}", "")
        test = int(rng.integers(60, 420))
        logit = rng.normal(-2.0 + rng.normal(0, 0.4), 1.35, test)
        y = (rng.random(test) < 1 / (1 + np.exp(-logit))).astype(int)
        risk = {who: 1 / (1 + np.exp(-(logit + rng.normal(0, noise[who] + 1e-9, test)))) for who in kept}
        all_y.append(y)
        for who in kept:
            all_risk[who].append(risk[who])
        found = {who: auroc(y, risk[who]) for who in kept}
        rows.append({
            "name": name, "title": title, "region": ("North", "South", "West")[k % 3], "description": description,
            "simulated": True, "train": 6 * test, "validation": test, "test": test, "events": int(y.sum()),
            "status": "took part", "shared": True,
            **{who: found.get(who) for who in ("local", "federated", "pooled", "oracle")},
            "measures": {key: found["federated"] if key == "auroc" else around(value, 0.04, METHODS.get(key, ""))
                         for key, value in zip(MEASURES, (0, .41, .09, .31, .03, .96, -.04, .47, .05, .88), strict=True)},
        })  # fmt: skip
    if failures and sites > 6:
        rows[6]["status"] = "failed in 3 rounds: no answer within 30 s"
        rows[5] |= {"shared": False, "train": None, "validation": None, "test": None, "events": None, "measures": {}}
        rows[5] |= dict.fromkeys(("local", "federated", "pooled", "oracle"))
    y, together = np.concatenate(all_y), {who: np.concatenate(all_risk[who]) for who in kept}
    union = {}
    for who in kept:
        values = (0, .43, .088, .302, .021, .97, -.03, .49, .052, .887)  # fmt: skip
        union[who] = {key: around(v, 0.02, METHODS.get(key, "")) for key, v in zip(MEASURES, values, strict=True)}
        union[who]["auroc"] = auroc(y, together[who])
        union[who]["net_benefit"] |= {"low": None, "high": None}
        union[who]["ece"] |= {"low": None, "high": None}
    labels = {
        "local": "Each hospital alone",
        "federated": "Federated",
        "pooled": "Pooled records",
        "oracle": "True risk (oracle)",
    }
    comparison = []
    for who in (who for who in labels if who in kept):
        shown = [(row["name"], row[who]) for row in rows if row[who] and row[who]["value"] is not None]
        worst = min(shown, key=lambda pair: pair[1]["value"], default=("", None))
        mean = float(np.mean([m["value"] for _, m in shown])) if shown else None
        comparison.append({
            "who": who, "label": labels[who], "union_auroc": union[who]["auroc"],
            "mean_site_auroc": around(mean, 0.018, "normal approximation over hospitals") if mean else not_estimable("none"),
            "worst_site": {"name": worst[0], "auroc": worst[1]},
        })  # fmt: skip
    rounds = [{
        "round": k, "auroc": around(0.785 - 0.21 * float(np.exp(-k / 5)) + float(rng.normal(0, 0.003)), 0.019),
        "log_loss": around(0.30 + 0.32 * float(np.exp(-k / 6)), 0.012), "train_loss": 0.29 + 0.35 * float(np.exp(-k / 5)),
        "took_s": 0.31, "bytes_up": 71_000, "bytes_down": 70_000, "answered": sites - (failures and k in (9, 10, 17)),
        "failed": [{"site": rows[-2]["name"], "reason": "no answer within 30 s"}] if failures and k in (9, 10, 17) and sites > 6 else [],
    } for k in range(1, 31)]  # fmt: skip
    names = [row["name"] for row in rows]
    place = rng.normal(size=(sites, 3))
    return {
        "schema": 1,
        "study": {
            "name": "demo", "digest": "9f2c51d07e3a4b6f8d10c2e4a6b8d0f2c4e6a8b0d2f4c6e8a0b2d4f6c8e0a2b4",
            "title": "Dying in hospital, predicted on the day of admission", "task": "mortality",
            "positive_label": "died in hospital", "strategy": "fedavg", "model": "mlp", "privacy": "plain",
            "secagg": "plain", "seed": 7, "rounds_planned": 40, "rounds_done": 30, "best_round": 24,
            "stopped_because": "no better validation log loss for 6 rounds", "started": "2026-03-02T09:41:07Z",
            "code_version": "0.1.0",
        },
        "sites": rows, "rounds": rounds,
        "union": {who: union.get(who) for who in ("federated", "pooled", "local", "oracle")},
        "comparison": comparison, "measure_titles": MEASURES,
        "curves": {who: curves(y, together[who]) for who in ("federated", "pooled") if who in kept},
        "groups": [
            *({"by": by, "level": level, "n": n, "events": n // 7, "auroc": around(a, 0.04),
               "calibration_slope": around(0.9 + a / 9, 0.11, "Wald"),
               "sensitivity_at_specificity": around(a - 0.3, 0.08, "Wilson")}
              for by, level, n, a in (("Age", "under 50", 214, .801), ("Age", "50 to 64", 402, .787), ("Age", "65 to 79", 571, .766),
                                      ("Age", "80 and over", 333, .731), ("Sex", "female", 741, .781), ("Sex", "male", 772, .774))),
            {"by": "Sex", "level": "other or unknown", "n": None, "events": None, "auroc": not_estimable("fewer than 10 patients"),
             "calibration_slope": not_estimable("fewer than 10 patients"),
             "sensitivity_at_specificity": not_estimable("fewer than 10 patients"), "note": "withheld: fewer than 10 patients"},
        ],
        "heterogeneity": {
            "rows": [{"feature": f"f{k}", "label": label, "icc_value": float(rng.uniform(.02, .11)),
                      "icc_missing": None if k == 0 else float(rng.uniform(.05, .27))} for k, label in enumerate(FEATURES)],
            "icc_outcome": 0.038,
            "summary": "Between-hospital differences are typical of multi-centre data: the median variable has 5 % of its "
                       "variance between hospitals, the outcome 4 %.",
            "site_distance": {"names": names, "matrix": np.linalg.norm(place[:, None] - place[None], axis=2).tolist()},
        },
        "cost": {"bytes_up": 2_130_000, "bytes_down": 2_100_000, "messages": 480, "wall_s": 9.7, "cpu_s": 14.2,
                 "peak_memory_bytes": 612_000_000, "start_s": 2.9},
        "privacy": {"statement": "No differential privacy was used, so the weights carry no formal bound on what they reveal of a patient."},
        "preprocessing": [{"name": f"f{k}", "label": label, "mean": float(rng.uniform(1, 120)), "sd": float(rng.uniform(.4, 20)),
                           "missing_share": float(rng.uniform(0, .6))} for k, label in enumerate(FEATURES)],
        "notes": ["The oracle is the risk that generated the simulated patients; on real patients there is none."],
        "manifest": {"config_sha256": "ab" * 32, "weights_sha256": "cd" * 32, "python": "3.11.9", "platform": "Linux x86_64",
                     "packages": {"flwr": "1.41.0", "numpy": "2.4.6", "torch": "2.13.0"}, "threads": 1},
    }  # fmt: skip


FLOWER = "flwr.serverapp.strategy."


def made_run(seed: int = 1, *, strategy: str = "FedAvg", folder: str = "", curve: tuple[float | None, ...] = (0.6, 0.7),
             config: dict[str, Any] | None = None, simulated: bool = True, cohort: str = "", **values: float | None) -> Run:  # fmt: skip
    """A finished run of two hospitals with these results, None for withheld."""
    auroc = values.get("union", 0.7)

    def m(value: float | None) -> dict[str, Any]:
        return not_estimable("withheld: fewer than 10 patients") if value is None else around(value, 0.05)

    sites = [
        {"name": name, "title": title, "simulated": simulated, "train": 60, "validation": 20, "test": 20}
        for name, title in (("oak", "Oak"), ("elm", "Elm"))
    ]
    rounds = [
        {"round": k, "auroc": m(value), "bytes_up": 100, "bytes_down": 50, "took_s": 0.5}
        for k, value in enumerate(curve, 1)
    ]
    return Run(
        folder=folder or f"runs/{strategy}-{seed}",
        config={
            "name": "trial", "title": "Trial", "seed": seed, "rounds": 2, "task": {"name": "mortality"},
            "features": {"name": "mortality", "features": [{"name": "age"}, {"name": "lactate"}]},
            "split": {"train": 0.6, "test": 0.4}, "source": {"kind": None}, "sites": {"folder": None, "names": None},
            "model": {"_target_": "fedhealth.models.logistic.Logistic"}, "training": {"learning_rate": 0.05},
            "strategy": {"_target_": FLOWER + strategy, "fraction_train": 1.0}, "run": {"folder": None},
            **(config or {}),
        },
        report={
            "schema": 1, "study": {"title": "Trial"}, "sites": sites, "rounds": rounds,
            "union": {"federated": {"auroc": m(auroc), "log_loss": m(values.get("log_loss", 0.4)),
                                    "calibration_slope": m(values.get("slope", 1.0)),
                                    **({"c_index": m(values["c"])} if "c" in values else {})}},
            "comparison": [{"who": "federated", "mean_site_auroc": m(values.get("mean", 0.65)),
                            "worst_site": {"name": values.get("worst_name", "oak"), "auroc": m(values.get("worst", 0.6))}}],
            "cost": {"bytes_up": 100 * len(rounds), "bytes_down": 50 * len(rounds)},
        },
        cohorts={"oak": cohort or f"oak {seed}", "elm": cohort or f"elm {seed}"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_of() -> Callable[..., Run]:
    """The maker of finished runs, as a comparison reads them."""
    return made_run


@pytest.fixture(scope="session")
def sample() -> Callable[..., dict[str, Any]]:
    """The maker of sample reports."""
    return sample_report


@pytest.fixture
def report() -> dict[str, Any]:
    """The sample study as the demo would leave it."""
    return sample_report()
