"""Governance: who may do what with which patients, and the record of it.

    proposal ─inspect (summary)→ approval      a study as its proposer signs it, and what a hospital decides
    audit ─ merkle, note ─ countersign, proof  what happened, and that nobody can undo that it did
    consent, key_file, signing, installed      whose rows may be used; keys; which code runs

For the processes of a deployment: `approval.Approvals.require(digest)` before a message is worked
on, `audit.Log.append(event, …)` for what happens, and around the coordinator's grid a
`server.audited_grid.AuditedGrid`. The hospital's own half stands in `site.app` already.
"""
