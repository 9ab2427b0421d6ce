"""The mailing of a shop, put together from the results of both flows."""

import dagster as dg


@dg.asset(
    group_name="shop",
    ins={
        "segments": dg.AssetIn(["SegmentFlow", "join"], metadata={"artifact": "segments"}),
        "letters": dg.AssetIn(["LetterFlow", "join"], metadata={"artifact": "letters"}),
    },
)
def mailing(segments: dict, letters: dict) -> dg.MaterializeResult:
    """The letter that each customer gets."""
    mailing = {customer: letters[segment] for customer, segment in segments.items()}
    return dg.MaterializeResult(metadata={"letters": dg.MetadataValue.json(mailing)})
