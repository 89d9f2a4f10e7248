"""Secure aggregation as pure state machines: messages in, messages out; no clock, network, disk or chance.

The protocol is double masking with confirmed survivors, in the form that holds against a
coordinator who lies and T sites who help (Bonawitz et al. 2017,
doi 10.1145/3133956.3133982). Training comes first, so whoever is lost in training costs
nothing; then five exchanges:

    site      START ─advertise→ ADVERTISED ─share→ SHARED ─mask→ MASKED ─confirm→ CONFIRMED ─reveal→ DONE
    server    take(…) cohort()   take(…) inboxes()  take(…) survivors()  take(…) quorum()  take(…) total()

A site, between two messages of any transport:

    terms = Terms(…)                                   # from what the site approved and was given
    agree(terms, unpack_terms(offered))                # where the coordinator sends its own
    session = SiteSession.start(terms, name, identity, floor=policy.min_cohort, seed=os.urandom(32))
    reply = session.advertise().pack()
    …                                                  # store session.dump(), sealed, then send the reply
    session = SiteSession.load(stored, identity, at_least=Stage(counter))
    words = encode(terms.layout, patients, values, session.rounding_key)
    reply = session.mask(unpack(message), words).pack()

The coordinator: `server.take(name, unpack(reply))` for each site, where `Refused` leaves that
site out, then one closing verb; where that one is refused, the round is over. `decode` makes
sums of the words.

What callers must do, because nothing here can: keep the stage counter apart from the dump
and write both before a reply or a refusal leaves; work on one message of a session at a time,
whatever the processes; keep, by `terms.task` and over all studies, the `survivors` that were
confirmed and pass them as `answered`; make one task of questions whose answers hardly differ;
refuse any message in the clear where masking is due.

These files stand in a package of their own because a config group mirrors the files of
`fedhealth.secagg`, and they are no parts to choose from.
"""
