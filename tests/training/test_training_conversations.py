from training.conversations import conversations


def test_dialogue_is_whole_speech_that_begins_with_a_question():
    text = """He came in.

"Are you ill?"

"No,
I am tired."

"Then sleep."

She left, and "why?" he wondered.

“Who is there?”

“Nobody.”
"""
    assert list(conversations(text)) == [["Are you ill?", "No, I am tired."], ["Who is there?", "Nobody."]]


def test_article_asks_for_its_heading_and_answers_with_its_first_prose():
    text = "# Sockets\n\nA socket is an\nend point.\n\nIt has an address.\n\n## More\n\nNot this.\n"
    assert list(conversations(text)) == [["What is Sockets?", "A socket is an end point.\n\nIt has an address."]]


def test_book_titles_and_lone_questions_make_none():
    assert list(conversations('# Title: Emma\n\n## Author: X\n\n"Well?"\n\nHe sat.\n\n"Fine."')) == []
    assert list(conversations("")) == []
