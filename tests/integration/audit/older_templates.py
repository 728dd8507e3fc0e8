"""The index templates of earlier versions, as a cluster that has run Postbote for a while has them."""

import copy

from worker.audit.index_template import VERSION, index_template

assert VERSION == 4, "a newer version: say here what version 4's template did not have"


def template_of(version, prefix):
    """The body of ``PUT _index_template`` that Postbote of that version installed: 2 or 3."""
    body = copy.deepcopy(index_template(prefix))
    body["priority"] += version - VERSION
    body["version"] = version
    mappings, index = body["template"]["mappings"], body["template"]["settings"]["index"]
    del mappings["_meta"], mappings["properties"]["chain"], mappings["properties"]["recipient_hash"]
    del index["final_pipeline"]
    if version == 2:
        del mappings["properties"]["recipient"]["fields"]
        del index["analysis"]["char_filter"], index["analysis"]["normalizer"]["domain"]
    return body
