"""What the metrics mean, as slow loops over plain numbers, straight from the definitions.

`predictions` and `labels` are lists of rows, one a video. Nothing here shares code with what it judges.
"""

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]
Pair = tuple[float, bool]


def best_classes(row: Sequence[float], k: int) -> list[int]:
    """The k best classes of a video, the lower index first among equals."""
    return sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]


def hit_at_one(predictions: Matrix, labels: Matrix) -> float:
    if not len(predictions):
        return 0.0
    return sum(bool(y[best_classes(p, 1)[0]]) for p, y in zip(predictions, labels, strict=True)) / len(predictions)


def perr(predictions: Matrix, labels: Matrix) -> float:
    total = 0.0
    for p, y in zip(predictions, labels, strict=True):
        n = sum(map(bool, y))
        found = [c for c in best_classes(p, n) if p[c] > 0 and y[c]]
        total += len(found) / n if n else 0.0
    return total / len(predictions) if len(predictions) else 0.0


def list_ap(pairs: Sequence[Pair], num_positives: int, top_n: int | None = None) -> float:
    """AP of (score, hit) pairs: by score, misses first among equals; precision at each hit, one after another."""
    found, total = 0, 0.0
    for rank, (_, hit) in enumerate(sorted(pairs, key=lambda pair: (-pair[0], pair[1])), start=1):
        if top_n is not None and rank > top_n:
            break
        if hit:
            found += 1
            total += found / rank
    denominator = num_positives if top_n is None else min(num_positives, top_n)
    return total / denominator if denominator else 0.0


def gap(predictions: Matrix, labels: Matrix, k: int) -> float:
    pool = [(p[c], bool(y[c])) for p, y in zip(predictions, labels, strict=True) for c in best_classes(p, k)]
    return list_ap(pool, sum(map(bool, (label for y in labels for label in y))))


def class_aps(predictions: Matrix, labels: Matrix, k: int, num_classes: int) -> list[float | None]:
    """AP of each class over the videos that have it among their k best; None without positives."""
    aps: list[float | None] = []
    for c in range(num_classes):
        rows = list(zip(predictions, labels, strict=True))
        pool = [(p[c], bool(y[c])) for p, y in rows if c in best_classes(p, k)]
        positives = sum(bool(y[c]) for _, y in rows)
        aps.append(list_ap(pool, positives) if positives else None)
    return aps


def macro_ap_and_auc(scores: Sequence[float], labels: Sequence[bool]) -> tuple[float | None, float | None]:
    """AP and AUC of one class over all videos by comparing every pair of videos; equal scores are one threshold."""
    positives = [s for s, y in zip(scores, labels, strict=True) if y]
    negatives = [s for s, y in zip(scores, labels, strict=True) if not y]
    if not positives:
        return None, None
    ap = sum(sum(q >= p for q in positives) / sum(q >= p for q in scores) for p in positives) / len(positives)
    if not negatives:
        return ap, None
    wins = sum((p > q) + (p == q) / 2 for p in positives for q in negatives)
    return ap, wins / (len(positives) * len(negatives))


def precision_recall_at_k(predictions: Matrix, labels: Matrix, k: int, num_classes: int) -> tuple[float, ...]:
    """Overall precision and recall, and their means over the classes with a positive."""
    rows = list(zip(predictions, labels, strict=True))
    predicted = [sum(c in best_classes(p, k) for p, _ in rows) for c in range(num_classes)]
    found = [sum(c in best_classes(p, k) and bool(y[c]) for p, y in rows) for c in range(num_classes)]
    positives = [sum(bool(y[c]) for _, y in rows) for c in range(num_classes)]
    present = [c for c in range(num_classes) if positives[c]]
    if not present:
        return (0.0,) * 4
    precisions = [found[c] / predicted[c] if predicted[c] else 0.0 for c in present]
    recalls = [found[c] / positives[c] for c in present]
    overall = sum(found) / sum(predicted), sum(found) / sum(positives)
    return *overall, sum(precisions) / len(present), sum(recalls) / len(present)


def submission_text(ids: Sequence[str], predictions: Matrix, k: int) -> str:
    """The competition's CSV, a pair at a time."""
    text = "VideoId,LabelConfidencePairs\n"
    for video_id, row in zip(ids, predictions, strict=True):
        pairs = [f"{c:d} {float(row[c]):g}" for c in best_classes(row, k)]
        text += video_id + "," + " ".join(pairs) + "\n"
    return text


def segment_map(
    ratings: Sequence[tuple[str, int, float]], submission: Sequence[tuple[int, Sequence[str]]], top_n: int
) -> float:
    """MAP of rankings of segments; a rating is (segment, class, score), a row of the submission (class, segments)."""
    aps = []
    for c in {rated_class for _, rated_class, _ in ratings}:
        rated = {segment for segment, rated_class, _ in ratings if rated_class == c}
        positives = {segment for segment, rated_class, score in ratings if rated_class == c and score > 0}
        if not positives:
            continue
        ranking = [segment for row_class, segments in submission if row_class == c for segment in segments]
        counted = [segment for segment in (ranking[:top_n] if top_n else ranking) if segment in rated]
        total = 0.0
        for rank, segment in enumerate(counted, start=1):
            if segment in positives:
                total += sum(other in positives for other in counted[:rank]) / rank
        aps.append(total / len(positives))
    return sum(aps) / len(aps) if aps else 0.0
