"""The audit in OpenSearch: writing, looking up, searching."""
