"""Evaluation: a site's predictions become sums, and every measure is a function of the sum.

    a site:      probability, outcome ─ScoreSums.of→ histograms and sums ─SummaryLayout→ one vector
    the server:  Σ vectors ─SummaryLayout.unpack→ ScoreSums ─all_measures→ values with 95 % intervals
                                                            ─roc, reliability, …→ arrays for a plot

The same sums come out whether patients are pooled or spread over any number of
hospitals, bit for bit, and so do the measures. Nothing here sees a single patient
except `ScoreSums.of`, which runs at the hospital.
"""
