"""How a segment of a video is named in files: `<id>:<second at which it starts>`."""

import re

from yt8m.errors import UserError
from yt8m.scores import name_of

# A second has one spelling: `5`, not `05`. Otherwise two names of a segment would count as two segments. `++` and `*+`
# are possessive: they never backtrack, which makes matching a row of 100,000 segments four times as fast.
SEGMENT_NAME = r"[^\s,:]++:(?:0|[1-9][0-9]*+)"
_NOT_IN_A_NAME = re.compile(r"[\s,:]|^$")


def segment_name(video_id: bytes | str, start: int) -> str:
    """Returns the name of the segment of a video that begins at second `start`.

    Raises:
        UserError: if the id has a character that a submission uses as a separator.
    """
    name = name_of(video_id)
    if _NOT_IN_A_NAME.search(name):
        raise UserError(
            f"Video {name!r} cannot be part of a submission: expected an id without a space, comma or colon. "
            "Is this a shard of the data set?"
        )
    return f"{name}:{start}"
