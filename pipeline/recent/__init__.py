"""What a forecast is made from: dumps or committed dates, read and encoded as preprocess does. Nothing is published."""
