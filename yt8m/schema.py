"""Facts of the data set: names, sizes, quantisation, class counts by year."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from yt8m.arguments import (
    LARGEST_SIZE,
    ArgumentError,
    check_at_least,
    check_fraction,
    check_one_of,
    check_positive,
    check_size,
)

# A byte q of a quantised feature stands for q * QUANTISATION_STEP + QUANTISATION_OFFSET: a bin's centre in [-2, 2].
# Source: google/youtube-8m, utils.Dequantize; checked against the published means of video-level records.
QUANTISATION_STEP = 4.0 / 255.0
QUANTISATION_HALF_STEP = 4.0 / 512.0
QUANTISATION_OFFSET = QUANTISATION_HALF_STEP - 2.0
QUANTISATION_RANGE = 2.0  # of |x|; beyond it numbers are cut off

# The image features are principal components divided by their standard deviations plus an epsilon. Of the 1024 standard
# deviations these are known, by index from 1. Source: the data set's published PCA, yt8m_pca.
RGB_SIZE = 1024
RGB_STANDARD_DEVIATIONS = {
    1: 3.839, 2: 2.888, 3: 2.652, 6: 1.866, 11: 1.558, 21: 1.208, 51: 0.859, 101: 0.657, 201: 0.483, 401: 0.311,
    701: 0.183, 1024: 0.124,
}  # fmt: skip
WHITENING_EPSILON = 1e-4

MAX_FRAMES = 300  # one frame per second; the data set keeps the first 300 of a video
# Since 2018; until 2017 and in AudioSet; as MediaPipe's feature extraction writes them, of which a path is the last
# resort. The first that a record has counts.
# Source of MediaPipe's names: google-ai-edge/mediapipe, mediapipe/util/sequence/media_sequence.h.
ID_KEYS = ("id", "video_id", "clip/media_id", "clip/data_path")
LABELS_KEYS = ("labels", "clip/label/index")
LABELS_KEY = LABELS_KEYS[0]

# The names under which MediaPipe's feature extraction writes lists of floats.
# Source: google-ai-edge/mediapipe, the graphs of mediapipe/graphs/youtube8m.
MEDIAPIPE_NAMES = {"rgb": "RGB/feature/floats", "audio": "AUDIO/feature/floats"}

# 2019: what raters said of 5-second segments. A rating is one entry in each of these parallel lists of a frame-level
# record: a class, the seconds, that is frames, at which the segment starts and ends, and 1 if the class is to be seen
# there, 0 if not.
SEGMENT_LABELS_KEY = "segment_labels"
SEGMENT_START_TIMES_KEY = "segment_start_times"
SEGMENT_END_TIMES_KEY = "segment_end_times"
SEGMENT_SCORES_KEY = "segment_scores"
SEGMENT_SECONDS = 5

# Optical flow in records of clips: v pixels per step between two frames, clipped to [-FLOW_BOUND, FLOW_BOUND], are
# stored as the byte q = round(v / FLOW_STEP) + FLOW_ZERO, 1 to 255. So v = 0 is a byte, and -v is 256 - q.
# Source: the bound is that of Carreira & Zisserman 2017, as google-deepmind/kinetics-i3d states it; Yue-Hei Ng et al.
# 2015 clip to 40 pixels. Both scale linearly, without a byte for 0.
FLOW_BOUND = 20.0
FLOW_ZERO = 128
FLOW_STEP = FLOW_BOUND / 127

# Sound in records of clips: per frame a patch of a log mel spectrogram, 96 windows, one every 10 ms, of 64 bands, which
# is what VGGish reads. A band v is stored as the byte q = round((v - SOUND_FLOOR) / SOUND_STEP), 0 to 255; 0 is
# silence, log(0.01). Of samples in [-1, 1] no band reaches SOUND_CEILING: by Cauchy and Schwarz it is at most
# log(|weights of the band| |spectrum| + 0.01), and Parseval's sum bounds the spectrum.
PATCH_FRAMES, MEL_BANDS = 96, 64
PATCH_SIZE = PATCH_FRAMES * MEL_BANDS
SOUND_FLOOR, SOUND_CEILING = math.log(0.01), 6.2
SOUND_STEP = (SOUND_CEILING - SOUND_FLOOR) / 255

# Records that carry the predictions of a teacher: parallel lists of classes and of their probabilities. A class that is
# not listed has probability 0.
TEACHER_CLASSES_KEY = "teacher_classes"
TEACHER_SCORES_KEY = "teacher_scores"

# Classes by version of the data set. The 2019 segments are labelled with 1000 of the 3862.
NUM_CLASSES_BY_YEAR = {2016: 4800, 2017: 4716, 2018: 3862, 2019: 3862}
NUM_CLASSES = NUM_CLASSES_BY_YEAR[2018]

ClipSampling = Literal["consecutive", "spread"]


@dataclass(frozen=True)
class DataSpec:
    """What the records of a data set hold.

    Attributes:
        feature_names: the features to read, in the order in which a model concatenates them.
        feature_sizes: their widths; bytes per frame for quantised frame-level features, floats for video-level ones,
            channels for frames of a clip: 3 for pictures, 2 for flow; `PATCH_SIZE` for its sound.
        num_classes: labels are class indices in `[0, num_classes)`.
        record_format: the registered name of the kind of records: `video`, with a vector per video, `frame`, with one
            per frame, `segment`, the rated segments of `frame`, or `clip`, with a picture per frame.
        max_frames: frames after this one are cut off; the length T of a clip.
        clip_size: of clips: height and width S of the frames that a model gets.
        clip_crop: of clips: the window that is scaled to S x S is a square whose side is this share of the frame's
            short side; 0 takes the whole frame, whatever its shape.
        clip_zoom: of clips, in training: the sides of the window are divided by a random factor in [1, clip_zoom].
        clip_flip: of clips, in training: whether half of them are mirrored.
        clip_sampling: of clips: `consecutive` takes T frames in a row, `spread` one from each of T equal parts of the
            video.
        eval_clips: of clips: how many are taken of a video at evaluation; their scores are averaged.
        segment_context: of segments: how many frames before and after each of them are read with it, where there are so
            many.
        feature_weights: the lengths that a model scales the vectors of each feature to before it concatenates them;
            none: it leaves them as they are.

    Raises:
        ArgumentError: if names and sizes do not pair up, or a number is out of range.
    """

    feature_names: tuple[str, ...] = ("mean_rgb",)
    feature_sizes: tuple[int, ...] = (1024,)
    num_classes: int = NUM_CLASSES
    record_format: str = "video"
    max_frames: int = MAX_FRAMES
    clip_size: int = 112
    clip_crop: float = 0.875
    clip_zoom: float = 1.0
    clip_flip: bool = True
    clip_sampling: ClipSampling = "consecutive"
    eval_clips: int = 1
    segment_context: int = 0
    feature_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names, sizes = ",".join(self.feature_names), ",".join(map(str, self.feature_sizes))
        if not self.feature_names or len(self.feature_names) != len(self.feature_sizes):
            raise ArgumentError(
                f"feature_names={names}: expected as many names as feature_sizes={sizes} has sizes. Give one size for "
                "each name, in the same order."
            )
        if len(set(self.feature_names)) != len(self.feature_names):
            raise ArgumentError(f"feature_names={names}: it names a feature twice. Give each feature once.")
        if min(self.feature_sizes) < 1 or max(self.feature_sizes) > LARGEST_SIZE:
            raise ArgumentError(
                f"feature_sizes={sizes}: expected whole numbers from 1 to {LARGEST_SIZE}, the width of each feature."
            )
        weights = ",".join(map(str, self.feature_weights))
        if weights and self.record_format == "clip":
            raise ArgumentError(f"feature_weights={weights}: they scale vectors, and clips are pictures. Leave it out.")
        if weights and len(self.feature_weights) != len(self.feature_names):
            raise ArgumentError(
                f"feature_weights={weights}: expected a number for each of feature_names={names}, in the same order."
            )
        for weight in self.feature_weights:
            check_positive(feature_weights=weight)
        check_size(1, num_classes=self.num_classes, max_frames=self.max_frames)
        check_size(1, clip_size=self.clip_size, eval_clips=self.eval_clips)
        check_fraction(clip_crop=self.clip_crop)
        check_at_least(1, clip_zoom=self.clip_zoom)
        check_one_of(get_args(ClipSampling), clip_sampling=self.clip_sampling)
        check_size(0, segment_context=self.segment_context)

    @property
    def total_size(self) -> int:
        """The width of all features side by side."""
        return sum(self.feature_sizes)

    @property
    def has_teacher(self) -> bool:
        """Whether records have to carry the predictions of a teacher."""
        return False

    @property
    def has_every_segment(self) -> bool:
        """Whether all segments of a video are read, and not only those that were rated."""
        return False


class TaughtDataSpec(DataSpec):
    """What training records hold that carry the predictions of a teacher beside what a model reads."""

    @property
    def has_teacher(self) -> bool:
        """Yes."""
        return True


class EverySegmentDataSpec(DataSpec):
    """What records of segments hold whose segments are all to be predicted, rated or not."""

    @property
    def has_every_segment(self) -> bool:
        """Yes."""
        return True
