"""TFLite files, float and int8."""
