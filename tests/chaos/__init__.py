"""Kill things at random while events flow, then count: published, received, recorded. See docs/chaos.md."""
