"""Column names that people give to what is learned, texts and row numbers: English, Chinese."""

_LABELS = """
    label labels class classes category categories target targets tag sentiment intent topic type
    y is_spam spam ground_truth 标签 类别 分类 类型 情感 情感倾向 意图 主题 类
"""
_TEXTS = """
    text texts sentence sentences message messages sms content review reviews comment comments
    document body title description question answer prompt completion tweet utterance input
    文本 内容 评论 句子 正文 标题 消息 短信 问题 回答 文章 描述
"""
_TRANSCRIPTS = "transcript transcripts transcription transcriptions 转写 转录 文本转录"
_SCORES = "score scores rating ratings target targets y label labels ground_truth 分数 得分 评分"
_INDEXES = "id idx index row rowid row_id uuid no unnamed:_0 编号 序号"

LABEL_NAMES = frozenset(_LABELS.split())
TEXT_NAMES = frozenset(_TEXTS.split())
TRANSCRIPT_NAMES = frozenset(_TRANSCRIPTS.split())
SCORE_NAMES = frozenset(_SCORES.split())
INDEX_NAMES = frozenset(_INDEXES.split())


def plain_name(name: str) -> str:
    """Return the name as the sets above spell it: lower case, spaces as underscores."""
    return "_".join(name.strip().lower().replace("-", "_").split())
