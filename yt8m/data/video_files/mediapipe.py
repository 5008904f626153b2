"""What MediaPipe's feature extraction writes: `features.pb`, one serialized SequenceExample per file."""

from collections.abc import Iterator

import tensorflow as tf

from yt8m.data.formats.base import RecordFaultError
from yt8m.data.stored_videos import stored_video
from yt8m.data.video_files.base import Row, VideoFileReader
from yt8m.errors import UserError, first_line


class MediaPipeReader(VideoFileReader):
    """Reads `.pb`, under MediaPipe's names or ours."""

    def read(self, path: str) -> Iterator[Row]:
        """Yields the one video of a file.

        Raises:
            UserError: if the file or a row cannot be understood; the message names both.
        """
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                yield path, stored_video(file.read(), self.spec)
        except tf.errors.OpError as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}).") from error
        except RecordFaultError as fault:
            raise UserError(f"{path}: {fault}") from fault
