"""The report: a run's `report.json` as one page, `report.html`, that needs nothing else to be read.

`findings` works out the report from a run's sums, `page.write_html` makes the page, `plots` its
figures (`svg` fits them to the page), `words` its sentences. Whatever the report leaves out, the
page leaves out.

Beside it stands the comparison of runs: `run_groups` says which can be compared, `comparison` works
out its document, `comparison_page.write` makes its files, with `comparison_figure` and
`comparison_tables`.

`report.json`, schema 1. M is a measure as `core.measure.Measure.to_json` writes it:
`{"value", "low", "high", "method", "note"}`, null where there is none and NaN is null. Every
part may be null or absent, except `schema`, `study` and `sites`.

    schema          1
    study           name, digest, title, task, positive_label, strategy, model, privacy, secagg,
                    seed, rounds_planned, rounds_done, best_round, is_chosen (on validation patients, or the
                    last), stopped_because, started, code_version
    sites           [one a hospital]
        name, title, region, description
        simulated   whether its patients are made up
        train, validation, test
                    patients, null where the hospital's policy withholds the count; where they are
                    followed over time, `test` are those whose status at the horizon is known
        events      patients with a positive outcome among `test`
        status      "took part", or what went wrong
        shared      whether its policy allows results by name
        local, federated, pooled, oracle
                    M, AUROC on the hospital's own test patients
        measures    {measure: M}, the federated model on the same patients
    rounds          [one a round, validation patients]
        round, auroc (M), log_loss (M), train_loss, took_s, bytes_up, bytes_down, answered,
        failed ([{site, reason}])
    union           {who: {measure: M}} on all hospitals' test patients together; who is local,
                    federated, pooled or oracle; the measures are those of `evaluation.measures.MEASURES`
    comparison      [{who, label, mean_site_auroc (M), union_auroc (M), worst_site: {name, auroc (M)}}];
                    the name may be the title
    measure_titles  {measure: words}
    masking         of a masked run, in which `sites` hold no counts and no measures: min_cohort, colluders, tested_on
                    (hospitals in the last sum), stages ([{stage, title, questions, hospitals, lost, bytes_up,
                    bytes_down, took_s}]), lost ([{site, stage, rounds}]), rounds ([{round, hospitals}])
    follow_up       {horizon, patients, censored}: where patients are followed over time, the words of
                    the horizon, how many test patients there are, and of how many the status at the
                    horizon is not known, both null where withheld; the measures then begin with those
                    of `evaluation.survival.SURVIVAL_MEASURES`
    curves          {who: {roc: {x, y}, pr: {x, y},
                           reliability: {predicted, observed, low, high, n},
                           decision: {threshold, model, all, none}}}
    groups          [{by, level, n, events, auroc (M), calibration_slope (M),
                      sensitivity_at_specificity (M), note}]; a row with null `n` is withheld
    heterogeneity   {rows: [{feature, label, icc_value, icc_missing}], icc_outcome, summary,
                     site_distance: {names, matrix}, null of more than 60 hospitals}
    cost            bytes_up, bytes_down, messages, wall_s, cpu_s, peak_memory_bytes, start_s
    privacy         {statement}
    preprocessing   [{name, label, mean, sd, missing_share}]
    notes           [sentences]
    manifest        config_sha256, weights_sha256, packages ({name: version}), python, platform, threads
    sha256          of all the above as canonical JSON; in the file only
"""
