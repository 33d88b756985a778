"""Objects of a store that speaks S3 become files here; knows signatures and answers, no route."""
