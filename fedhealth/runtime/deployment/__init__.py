"""Deployment: a coordinator and its hospitals, each a process of its own, on machines of their own.

    coordinator                                   hospital
      supervisor                                    supervisor
        ├── superlink    TLS 1.3, the one port  ←──── └── node      the one connection, outwards
        └── executor     takes a run's task                  │ a pipe
              └── conduct  the server app                    └── worker    the patients; no network

Flower carries the messages: its SuperLink keeps runs and messages in SQLite, and its fleet
protocol, spoken by `node`, brings them to a hospital. What a run executes is the installed
package, on both sides: the bundle that Flower asks for names it and holds no code, the node
never fetches it, and the executor never opens it.

Flower's SuperNode is not started as it is. It would listen on a port of the hospital's
machine, hand patients' work to whoever holds a secret there, poll every three seconds, and
lose the message at hand when it ends. `node` speaks the same protocol without a port.

    certificates  tokens  door  enrolment     who may come in
    supervisor  line                          what goes on where something ends
    coordinator_folder  site_folder           what lies where
    flower                                    the private parts of Flower that deployment needs
"""
