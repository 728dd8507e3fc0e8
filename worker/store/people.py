"""Who there is, in one store: fulfils `worker.control.ports.Directory`.

A change stores, in one transaction, what it changes, its audit record, what the workers have to hear and
the mail it sends. Values of sessions, tokens and links are stored as digests; a link's own value stands
nowhere but in its mail, which waits among what is to be told until it has gone out.
"""

from worker.store.links import Links
from worker.store.organizations import Organizations
from worker.store.sessions import Sessions
from worker.store.tokens import Tokens
from worker.store.users import Users


class PeopleStore(Users, Sessions, Tokens, Links, Organizations):
    """Users, sessions, tokens, one-time links, partners and organizations, over one `database.Store`.

    Every method may raise StoreUnavailable, every change one of `worker.control.errors`.
    """
